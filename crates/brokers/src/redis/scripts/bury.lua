-- Takes a dead letter out, and puts its message back into a queue if there is one. KEYS: the dead letters, the list. ARGV: the letter, the message or ''.
-- Where it cannot go back, it stays.
if ARGV[2] ~= '' then redis.call('LLEN', KEYS[2]) end
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '' then redis.call('LPUSH', KEYS[2], ARGV[2]) end
return 1
