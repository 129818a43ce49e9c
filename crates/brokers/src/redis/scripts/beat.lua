-- A sign of life: renews the owner's key, and the scores of some of what it holds, so that no sweep of Celery's takes it.
-- KEYS: the owner's key, the set of owners, unacked_index. ARGV: the owner, who it is, its lease in ms, then tags.
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
if #ARGV > 3 then
  local time = redis.call('TIME')
  local now = time[1] .. '.' .. string.format('%06d', time[2])
  local scores = {}
  for i = 4, #ARGV do
    scores[#scores + 1] = now
    scores[#scores + 1] = ARGV[i]
  end
  redis.call('ZADD', KEYS[3], 'XX', unpack(scores))
end
return 1
