-- Parks messages that were taken for good, as if they had been lent. KEYS: unacked, unacked_index. ARGV: tag, entry, tag, entry, …
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local scores = {}
for i = 1, #ARGV, 2 do
  scores[i], scores[i + 1] = now, ARGV[i]
end
redis.call('HSET', KEYS[1], unpack(ARGV))
redis.call('ZADD', KEYS[2], unpack(scores))
return 1
