-- The ids that are called off, the oldest first. KEYS: the sorted set by time (in microseconds). ARGV: seconds that they are kept.
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', (redis.call('TIME')[1] - ARGV[1]) * 1000000), '+inf')
