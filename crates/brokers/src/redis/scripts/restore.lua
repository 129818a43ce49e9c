-- Puts a message back to the front of its queue, if it is still parked; where it lies aside, whole, so that every other program finds what was sent.
-- KEYS: unacked, unacked_index, the set of what was rescued from its owner, the lists.
-- ARGV: tag, the message to be put back, whether it is noted as rescued, the key of what lies aside for it or ''.
-- Where something is refused nothing was done.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
redis.call('ZREM', KEYS[2], '')
local aside = ARGV[4]
local message = aside ~= '' and redis.call('GET', aside) or ARGV[2]
for i = 4, #KEYS do redis.call('LLEN', KEYS[i]) end
local done, result = all_or_nothing(function()
  for i = 4, #KEYS do push('RPUSH', KEYS[i], message) end
  if ARGV[3] == '1' then
    redis.call('SADD', KEYS[3], ARGV[1])
    redis.call('EXPIRE', KEYS[3], 3600)
  end
  redis.call('HDEL', KEYS[1], ARGV[1])
end)
if not done then error(result, 0) end
redis.call('ZREM', KEYS[2], ARGV[1])
if aside ~= '' then redis.call('DEL', aside) end
return 1
