-- Calls workers that stand in line, those first that have for longest: one to listen in the place of this worker, others to take what is there.
-- KEYS: who listens, who stands in line, the mark that somebody does. ARGV: the worker, what stands before a name in its channel, whether it listens no more,
-- how many others are called.
-- 0 where nobody stands in line any more.
local function call(word)
  while true do
    local name = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
    if not name then
      redis.call('DEL', KEYS[3])
      return
    end
    redis.call('ZREM', KEYS[2], name)
    -- Whoever does not hear it is dead, or away.
    if redis.call('PUBLISH', ARGV[2] .. name, word) > 0 then return name end
  end
end
local found = true
if ARGV[3] == '1' then redis.call('ZREM', KEYS[2], ARGV[1]) end
if ARGV[3] == '1' and redis.call('SREM', KEYS[1], ARGV[1]) == 1 then
  found = call('listen')
  if found then redis.call('SADD', KEYS[1], found) end
end
for _ = 1, tonumber(ARGV[4]) do
  if not found then break end
  found = call('take')
end
return found and 1 or 0
