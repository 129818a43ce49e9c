-- Ends messages, each in one step: is it still ours, then what it sends, stores and counts, then its end. What one of them asks for and is refused is no
-- concern of the others: all of it is looked at before anything of it is done, and where a command is forbidden nevertheless, what was sent is taken back.
-- KEYS: unacked, unacked_index, the hash of what stays claimed.
-- ARGV: how many, their tags, then for each its operations:
--   L list message      put into a queue, behind
--   R list message      the same, to the front
--   W list stub aside command    what lies aside goes back, whole, in place of its stub: LPUSH behind, RPUSH to the front
--   A aside             what lies aside goes
--   S key seconds doc   store and tell; for ever with 0
--   K key seconds doc   the same, unless a success is stored
--   M base id seconds message most bytes    keep the message of what has failed
--   C key id score member seconds token step    count a part of the chord
--   D list entry most dropped queue other    a dead letter; beyond so many the oldest go, and are counted; into the other list where the first is none
--   U                   nothing is written down of it any more
--   E                   the end: it is removed
--   P step              the end: it stays claimed; the step is written down, so that it is known to be done
-- For each: 0 not ours, 1 done, 2 done, and the chord is complete through it (the message stays claimed), or the
-- operation that was refused, a space, and the error: nothing was done but what may be done again.
local skip = { L = 2, R = 2, W = 4, A = 1, S = 3, K = 3, M = 6, C = 7, D = 6, U = 0, E = 0, P = 1 }
local count = tonumber(ARGV[1])
local tags = {}
for i = 1, count do tags[i] = ARGV[i + 1] end
local ours = redis.call('ZMSCORE', KEYS[2], unpack(tags))
-- Whatever ends is taken out of both last: what refuses that shall do so now.
redis.call('HDEL', KEYS[1], '')
redis.call('ZREM', KEYS[2], '')
local at = count + 2
local results, gone = {}, {}
local lists = {}
-- The operation that is looked at or done.
local op

local function must_be_list(key)
  if not lists[key] then
    redis.call('LLEN', key)
    lists[key] = true
  end
end

local function store(key, seconds, doc)
  if seconds == '0' then redis.call('SET', key, doc) else redis.call('SETEX', key, seconds, doc) end
  redis.call('PUBLISH', key, doc)
end

-- Reads what the operations from here on would meet, and raises what they would be refused.
local function look(at)
  local seen = {}
  while true do
    op = ARGV[at]
    if op == 'L' or op == 'R' or op == 'W' then
      must_be_list(ARGV[at + 1])
    elseif op == 'K' or op == 'S' then
      seen[at] = redis.call('GET', ARGV[at + 1])
    elseif op == 'C' then
      seen[at] = look_at_part(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    elseif op == 'D' then
      seen[at] = ARGV[at + 1]
      if not pcall(must_be_list, seen[at]) then
        seen[at] = ARGV[at + 6]
        must_be_list(seen[at])
      end
    elseif op == 'E' or op == 'P' then
      return seen
    end
    at = at + 1 + skip[op]
  end
end

-- Does them.
local function perform(tag, at)
  local seen = look(at)
  while true do
    op = ARGV[at]
    if op == 'L' then
      push('LPUSH', ARGV[at + 1], ARGV[at + 2])
    elseif op == 'E' then
      gone[#gone + 1] = tag
      return 1
    elseif op == 'K' then
      local stored = seen[at]
      if not (stored and string.find(stored, '^%s*{%s*"status"%s*:%s*"SUCCESS"')) then
        store(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
      end
    elseif op == 'S' then
      store(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    elseif op == 'M' then
      pcall(keep, unpack(ARGV, at + 1, at + 6))
    elseif op == 'R' then
      push('RPUSH', ARGV[at + 1], ARGV[at + 2])
    elseif op == 'W' then
      push(ARGV[at + 4], ARGV[at + 1], redis.call('GET', ARGV[at + 3]) or ARGV[at + 2])
      redis.call('DEL', ARGV[at + 3])
    elseif op == 'A' then
      redis.call('DEL', ARGV[at + 1])
    elseif op == 'C' then
      local base, id, score, member, seconds, token = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
      if count_part(base, id, score, member, seconds, token, seen[at]) == 'ours' then
        redis.call('HSET', KEYS[3], tag, ARGV[at + 7])
        redis.call('EXPIRE', KEYS[3], 86400)
        return 2
      end
    elseif op == 'D' then
      local most, dropped, queue = tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
      local over = push('LPUSH', seen[at], ARGV[at + 2]) - most
      if over > 0 then
        for _, letter in ipairs(redis.call('LRANGE', seen[at], most, -1)) do
          local aside = string.match(string.sub(letter, 1, 256), '^{"aside": ?"(.-)"')
          if aside then redis.call('DEL', aside) end
        end
        redis.call('LTRIM', seen[at], 0, most - 1)
        -- Its count is not worth the letter.
        local known = redis.pcall('HGET', dropped, queue)
        if type(known) ~= 'table' then redis.call('HSET', dropped, queue, (tonumber(known) or 0) + over) end
      end
    elseif op == 'U' then
      redis.call('HDEL', KEYS[3], tag)
    elseif op == 'P' then
      redis.call('HSET', KEYS[3], tag, ARGV[at + 1])
      redis.call('EXPIRE', KEYS[3], 86400)
      return 1
    end
    at = at + 1 + skip[op]
  end
end

for i = 1, count do
  if ours[i] then
    local done, result = all_or_nothing(perform, tags[i], at)
    if not done then result = op .. ' ' .. (type(result) == 'table' and result.err or tostring(result)) end
    results[i] = result
  else
    results[i] = 0
  end
  -- On to the next one's.
  while ARGV[at] ~= 'E' and ARGV[at] ~= 'P' do at = at + 1 + skip[ARGV[at]] end
  at = at + 1 + skip[ARGV[at]]
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
end
return results
