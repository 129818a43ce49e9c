-- Ends messages, each in one step: is it still ours, then what it sends, stores and counts, then its end.
-- KEYS: unacked, unacked_index, the hash of what stays claimed.
-- ARGV: how many, their tags, then for each its operations:
--   L list message      put into a queue, behind
--   R list message      the same, to the front
--   S key seconds doc   store and tell; for ever with 0
--   K key seconds doc   the same, unless a success is stored
--   C key id score member seconds token step    count a part of the chord
--   D list entry most dropped queue    a dead letter; beyond so many the oldest go, and are counted
--   U                   nothing is written down of it any more
--   E                   the end: it is removed
--   P step              the end: it stays claimed; the step is written down, so that it is known to be done
-- For each: 0 not ours, 1 done, 2 done, and the chord is complete through it (the message stays claimed).
local skip = { L = 2, R = 2, S = 3, K = 3, C = 7, D = 5, U = 0, E = 0, P = 1 }
local count = tonumber(ARGV[1])
local tags = {}
for i = 1, count do tags[i] = ARGV[i + 1] end
local ours = redis.call('ZMSCORE', KEYS[2], unpack(tags))
local at = count + 2
local results, gone = {}, {}

local function store(key, seconds, doc)
  if seconds == '0' then redis.call('SET', key, doc) else redis.call('SETEX', key, seconds, doc) end
  redis.call('PUBLISH', key, doc)
end

for i = 1, count do
  local result = ours[i] and 1 or 0
  while true do
    -- Not ours, or the chord is complete: what follows is not done.
    local op = ARGV[at]
    if result ~= 1 then
      at = at + 1 + skip[op]
      if op == 'E' or op == 'P' then break end
    elseif op == 'S' then
      store(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
      at = at + 4
    elseif op == 'E' then
      gone[#gone + 1] = tags[i]
      at = at + 1
      break
    elseif op == 'L' then
      redis.call('LPUSH', ARGV[at + 1], ARGV[at + 2])
      at = at + 3
    elseif op == 'R' then
      redis.call('RPUSH', ARGV[at + 1], ARGV[at + 2])
      at = at + 3
    elseif op == 'K' then
      local stored = redis.call('GET', ARGV[at + 1])
      if not (stored and string.find(stored, '^%s*{%s*"status"%s*:%s*"SUCCESS"')) then
        store(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
      end
      at = at + 4
    elseif op == 'C' then
      local base, id, score, member, seconds, token = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
      if count_part(base, id, score, member, seconds, token) == 'ours' then
        redis.call('HSET', KEYS[3], tags[i], ARGV[at + 7])
        redis.call('EXPIRE', KEYS[3], 86400)
        result = 2
      end
      at = at + 8
    elseif op == 'D' then
      local list, most, dropped, queue = ARGV[at + 1], tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
      local over = redis.call('LPUSH', list, ARGV[at + 2]) - most
      if over > 0 then
        redis.call('LTRIM', list, 0, most - 1)
        redis.call('HSET', dropped, queue, (tonumber(redis.call('HGET', dropped, queue)) or 0) + over)
      end
      at = at + 6
    elseif op == 'U' then
      redis.call('HDEL', KEYS[3], tags[i])
      at = at + 1
    elseif op == 'P' then
      redis.call('HSET', KEYS[3], tags[i], ARGV[at + 1])
      redis.call('EXPIRE', KEYS[3], 86400)
      at = at + 2
      break
    end
  end
  results[i] = result
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
end
return results
