-- Says that a worker has nothing to do: it listens for the others, or, where enough of them do already, it stands in line to be called.
-- KEYS: who listens, who stands in line, the mark that somebody does. ARGV: the worker, what stands before a name in the key of its sign of life, what
-- stands before it in its channel, how many listen at most.
-- 1 it listens and nobody stands in line, 2 it listens and somebody does, 0 it stands in line.
local listeners, here = redis.call('SMEMBERS', KEYS[1]), 0
if #listeners > 0 then
  local signs = {}
  for i, name in ipairs(listeners) do signs[i] = ARGV[2] .. name end
  signs = redis.call('MGET', unpack(signs))
  for i, name in ipairs(listeners) do
    if name == ARGV[1] then
      here = -100000
    elseif signs[i] then
      here = here + 1
    else
      redis.call('SREM', KEYS[1], name)
    end
  end
end
if here < tonumber(ARGV[4]) then
  if here >= 0 then redis.call('SADD', KEYS[1], ARGV[1]) end
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 1 + redis.call('EXISTS', KEYS[3])
end
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 400)
redis.call('ZADD', KEYS[2], now, ARGV[1])
if redis.call('SET', KEYS[3], '1', 'NX') then
  for _, name in ipairs(listeners) do redis.call('PUBLISH', ARGV[3] .. name, 'crowd') end
end
return 0
