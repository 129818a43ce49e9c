-- Notes that a task is to be sent once under a key, or says what was noted before.
-- KEYS: the note. ARGV: the digest of what is asked for, the id, who sends it, for how many milliseconds the others leave it to that one, for how many the note is kept.
local note = redis.call('HMGET', KEYS[1], 'digest', 'id', 'by', 'held', 'sent')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = string.format('%d', now + ARGV[4])
if not note[1] then
  redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'id', ARGV[2], 'by', ARGV[3], 'held', held)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  return {'first', ARGV[2]}
end
if note[1] ~= ARGV[1] then return {'other', ''} end
if note[5] then return {'sent', note[2]} end
-- A time that is longer than any may be is of a clock that was put back.
local till = tonumber(note[4])
if note[3] ~= ARGV[3] and till > now and till <= now + ARGV[4] then return {'underway', note[2]} end
redis.call('HSET', KEYS[1], 'by', ARGV[3], 'held', held)
return {'unfinished', note[2]}
