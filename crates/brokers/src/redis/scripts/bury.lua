-- Takes a dead letter out, and puts its message back into a queue if there is one. KEYS: the dead letters, the list, what lies aside for it.
-- ARGV: the letter, the message or ''. Where it cannot go back, it stays.
local back = ARGV[2]
if back ~= '' then redis.call('LLEN', KEYS[2]) end
if back ~= '' and KEYS[3] then back = redis.call('GET', KEYS[3]) or back end
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if back ~= '' then redis.call('LPUSH', KEYS[2], back) end
if KEYS[3] then redis.call('DEL', KEYS[3]) end
return 1
