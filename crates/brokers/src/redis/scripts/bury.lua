-- Takes a dead letter out, and puts its message back into a queue if there is one. KEYS: the dead letters, the list. ARGV: the letter, the message or ''.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '' then redis.call('LPUSH', KEYS[2], ARGV[2]) end
return 1
