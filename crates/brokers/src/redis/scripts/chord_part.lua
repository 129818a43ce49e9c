-- Counts a part of a chord once, and claims the right to send the body when it is the last: what Celery's own script does, on the same keys.
-- But for a chord that is over: a chord that is sent again under its old ids is begun again by its sender just before the last of its tasks is sent, and
-- a part of another may be here by then. It is noted, or the chord would wait for it for ever (Celery's script drops it).
local function count_part(base, id, score, member, seconds, token)
  local parts, grown, size, counted, claim = base .. '.j', base .. '.t', base .. '.s', base .. '.d', base .. '.c'
  local state = redis.call('GET', claim)
  -- Asked again with the same token: its answer was lost.
  if state == token then return 'ours' end
  local name = id .. ':' .. score
  if redis.call('SISMEMBER', counted, name) == 0 then
    redis.call('ZADD', parts, score, member)
    redis.call('SADD', counted, name)
  end
  local ready = redis.call('ZCOUNT', parts, '-inf', '+inf')
  if tonumber(seconds) > 0 then
    for _, key in ipairs({ parts, grown, size, counted, base }) do redis.call('EXPIRE', key, seconds) end
  end
  if state == 'done' then return 'over' end
  local whole = redis.call('GET', size)
  if whole and ready == tonumber(whole) + tonumber(redis.call('GET', grown) or 0) and redis.call('SET', claim, token, 'NX', 'EX', 6) then
    return 'ours'
  end
  return 'waiting'
end
