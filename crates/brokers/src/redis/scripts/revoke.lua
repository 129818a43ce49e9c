-- Notes ids that are called off. KEYS: the sorted set by time (in microseconds). ARGV: seconds that they are kept, the most of them, then ids.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- In the order in which they came, however fast.
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local from = math.max(now, (tonumber(last) or 0) + 1)
local added = {}
for i = 3, #ARGV do
  added[#added + 1] = string.format('%.0f', from + i)
  added[#added + 1] = ARGV[i]
end
redis.call('ZADD', KEYS[1], unpack(added))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[1] * 1000000))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[2] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
