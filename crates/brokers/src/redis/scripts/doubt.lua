-- What became of messages whose end was sent and never confirmed.
-- KEYS: unacked_index, the hash of what stays claimed, the set of what was rescued from us. ARGV: tag, step, tag, step, …
-- For each: 0 it is still there, 1 it is there and the step was done, 2 it is gone, 3 it was rescued from us.
local fates = {}
for i = 1, #ARGV, 2 do
  local fate = 0
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    fate = 2 + redis.call('SISMEMBER', KEYS[3], ARGV[i])
  elseif redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] then
    fate = 1
  end
  fates[#fates + 1] = fate
end
return fates
