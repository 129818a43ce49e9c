-- Reserves slots of a rate that all share (rates.rs has the arithmetic). KEYS: the bucket. ARGV, in microseconds: interval, reach; and how many.
-- Gives back how far ahead the first lies, and how many were reserved.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, reach = tonumber(ARGV[1]), now + ARGV[2]
local from = math.min(math.max(tonumber(redis.call('GET', KEYS[1])) or 0, now), reach + interval)
local given = 0
if from <= reach then given = math.min(math.floor((reach - from) / interval) + 1, tonumber(ARGV[3])) end
local next = from + given * interval
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', string.format('%.0f', math.ceil((next - now) / 1000) + 1))
return { string.format('%.0f', from - now), given }
