-- Says how the sending of a note has ended: sent, not or unknown.
-- KEYS: the note. ARGV: the digest of what was asked for, who sent it, how it ended.
local note = redis.call('HMGET', KEYS[1], 'digest', 'by', 'sent')
if note[1] ~= ARGV[1] then return 0 end
if ARGV[3] == 'sent' then redis.call('HSET', KEYS[1], 'sent', '1') return 1 end
if note[2] ~= ARGV[2] or note[3] then return 0 end
if ARGV[3] == 'not' then redis.call('DEL', KEYS[1]) else redis.call('HSET', KEYS[1], 'held', '0') end
return 1
