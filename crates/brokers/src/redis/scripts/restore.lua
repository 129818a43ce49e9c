-- Puts a message back into its queue, or among the dead letters, if it is still parked.
-- KEYS: unacked, unacked_index, the set of what was rescued from its owner, the lists.
-- ARGV: tag, the message to be put back, the side (L behind, R in front), the most that a list may hold (0: any number),
-- whether it is noted as rescued.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
for i = 4, #KEYS do
  redis.call(ARGV[3] .. 'PUSH', KEYS[i], ARGV[2])
  if ARGV[4] ~= '0' then redis.call('LTRIM', KEYS[i], 0, tonumber(ARGV[4]) - 1) end
end
if ARGV[5] == '1' then
  redis.call('SADD', KEYS[3], ARGV[1])
  redis.call('EXPIRE', KEYS[3], 3600)
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
