-- Counts a part of a chord once, and claims the right to send the body when it is the last: what Celery's own script does, on the same keys.
-- But for a chord that is over: a chord that is sent again under its old ids is begun again by its sender just before the last of its tasks is sent, and
-- a part of another may be here by then. It is noted, or the chord would wait for it for ever (Celery's script drops it).
-- All that can be refused is read before anything is written.
local function look_at_part(base, id, score)
  local state = redis.call('GET', base .. '.c')
  local whole, grown = redis.call('GET', base .. '.s'), redis.call('GET', base .. '.t')
  local known = redis.call('SISMEMBER', base .. '.d', id .. ':' .. score)
  return { state = state, whole = tonumber(whole), grown = tonumber(grown) or 0, known = known == 1, parts = redis.call('ZCOUNT', base .. '.j', '-inf', '+inf') }
end

local function count_part(base, id, score, member, seconds, token, seen)
  seen = seen or look_at_part(base, id, score)
  -- Asked again with the same token: its answer was lost.
  if seen.state == token then return 'ours' end
  local parts, grown, size, counted, claim = base .. '.j', base .. '.t', base .. '.s', base .. '.d', base .. '.c'
  local ready = seen.parts
  if not seen.known then
    ready = ready + redis.call('ZADD', parts, score, member)
    redis.call('SADD', counted, id .. ':' .. score)
  end
  if tonumber(seconds) > 0 then
    for _, key in ipairs({ parts, grown, size, counted, base }) do redis.call('EXPIRE', key, seconds) end
  end
  if seen.state == 'done' then return 'over' end
  if seen.whole and ready == seen.whole + seen.grown and redis.call('SET', claim, token, 'NX', 'EX', 6) then
    return 'ours'
  end
  return 'waiting'
end
