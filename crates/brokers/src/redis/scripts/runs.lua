-- Notes that a worker runs these tasks, for so many milliseconds; for none, that it does not any more.
-- KEYS: what the keys of the notes begin with. ARGV: the worker, the time, the ids.
local ours = {}
for i = 3, #ARGV do
  local key = KEYS[1] .. ARGV[i]
  local by = redis.call('GET', key)
  if by and by ~= ARGV[1] then
    ours[i - 2] = 0
  else
    if ARGV[2] == '0' then redis.call('DEL', key) else redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
    ours[i - 2] = 1
  end
end
return ours
