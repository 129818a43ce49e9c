-- Reserves slots of a rate that all share (rates.rs has the arithmetic). KEYS: the bucket, the rates that were set for all.
-- ARGV, in microseconds: interval, span, how far ahead at most; how many; the limit's name.
-- Gives back how far ahead the first lies, how many were reserved, and the interval and span that hold.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, span = tonumber(ARGV[1]), tonumber(ARGV[2])
local set = redis.call('HGET', KEYS[2], ARGV[5])
if set then
  local one, other = string.match(set, '^(%d+) (%d+)$')
  if one and tonumber(one) > 0 then interval, span = tonumber(one), tonumber(other) end
end
local reach = now + ARGV[3] + span
local from = math.min(math.max(tonumber(redis.call('GET', KEYS[1])) or 0, now), reach + interval)
local given = 0
if from <= reach then given = math.min(math.floor((reach - from) / interval) + 1, tonumber(ARGV[4])) end
local next = from + given * interval
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', string.format('%.0f', math.ceil((next - now) / 1000) + 1))
return { string.format('%.0f', from - now), given, string.format('%.0f', interval), string.format('%.0f', span) }
