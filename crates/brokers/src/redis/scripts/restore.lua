-- Puts a message back to the front of its queue, if it is still parked.
-- KEYS: unacked, unacked_index, the set of what was rescued from its owner, the lists.
-- ARGV: tag, the message to be put back, whether it is noted as rescued.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
for i = 4, #KEYS do
  redis.call('RPUSH', KEYS[i], ARGV[2])
end
if ARGV[3] == '1' then
  redis.call('SADD', KEYS[3], ARGV[1])
  redis.call('EXPIRE', KEYS[3], 3600)
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
