-- Schedules, and who fires them: each call is one step.
-- KEYS: what they say, by name; their marks, by name ('since last sent fired'; '-': never); who paused them ('at by'); who leads ('token node');
-- the count of changes; for `fire` with a message its list. ARGV: what to do, then what that needs. Times are milliseconds since 1970.
local specs, marks, paused, lead, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local act, name = ARGV[1], ARGV[2]

local function mark_of(name)
  local mark = redis.call('HGET', marks, name)
  if not mark then return nil end
  local since, last, sent, fired = string.match(mark, '^(%S+) (%S+) (%S+) (%S+)$')
  return { since = since, last = last, sent = sent, fired = fired }
end

local function note(name, mark)
  redis.call('HSET', marks, name, mark.since .. ' ' .. mark.last .. ' ' .. mark.sent .. ' ' .. mark.fired)
end

local function is_ours(token)
  local held = redis.call('GET', lead)
  return held and string.sub(held, 1, #token + 1) == token .. ' ', held
end

if act == 'put' then -- name, what it says, now
  local mark = mark_of(name)
  if mark and redis.call('HGET', specs, name) == ARGV[3] then return 0 end
  mark = mark or { last = '-', sent = '-', fired = '0' }
  mark.since = ARGV[4]
  redis.call('HSET', specs, name, ARGV[3])
  note(name, mark)
  redis.call('INCR', changes)
  return 1
elseif act == 'amend' then -- name, what it says by now, what it is to say
  if not mark_of(name) or redis.call('HGET', specs, name) ~= ARGV[3] then return 0 end
  redis.call('HSET', specs, name, ARGV[4])
  redis.call('INCR', changes)
  return 1
elseif act == 'remove' then -- name
  local was = redis.call('HDEL', marks, name)
  redis.call('HDEL', specs, name)
  redis.call('HDEL', paused, name)
  if was == 1 then redis.call('INCR', changes) end
  return was
elseif act == 'pause' then -- name, now, by whom
  if not mark_of(name) then return 0 end
  redis.call('HSET', paused, name, ARGV[3] .. ' ' .. ARGV[4])
  redis.call('INCR', changes)
  return 1
elseif act == 'resume' then -- name, now
  local mark = mark_of(name)
  if not mark then return 0 end
  if redis.call('HDEL', paused, name) == 0 then return 1 end
  mark.since = ARGV[3]
  if mark.last ~= '-' and tonumber(mark.last) > tonumber(ARGV[3]) then mark.last = ARGV[3] end
  note(name, mark)
  redis.call('INCR', changes)
  return 1
elseif act == 'lead' then -- token, name of the scheduler, term
  local ours, held = is_ours(name)
  if held and not ours then return { 0, string.match(held, '^%S+ (.*)$') } end
  redis.call('SET', lead, name .. ' ' .. ARGV[3], 'PX', ARGV[4])
  return { 1, redis.call('GET', changes) or '0' }
elseif act == 'resign' then -- token
  if is_ours(name) then redis.call('DEL', lead) end
  return 1
elseif act == 'fire' then -- name, token, since, due, now, and the message, if any
  if not is_ours(ARGV[3]) then return 'not leading' end
  local mark = mark_of(name)
  if not mark then return 'changed' end
  if mark.last ~= '-' and tonumber(mark.last) >= tonumber(ARGV[5]) then return 'already' end
  if mark.since ~= ARGV[4] or redis.call('HEXISTS', paused, name) == 1 then return 'changed' end
  local done, result = all_or_nothing(function()
    if KEYS[6] then push('LPUSH', KEYS[6], ARGV[7]) end
    mark.last, mark.sent, mark.fired = ARGV[5], ARGV[6], string.format('%.0f', tonumber(mark.fired) + 1)
    note(name, mark)
  end)
  if not done then error(result, 0) end
  return 'done'
end
