-- Puts messages into several lists: all of them, or none. KEYS: the lists. ARGV: for each how many, then its messages.
-- What a key that is no list refuses it refuses before anything is written.
for i = 1, #KEYS do redis.call('LLEN', KEYS[i]) end
local at = 1
for i = 1, #KEYS do
  local last = at + tonumber(ARGV[at])
  for message = at + 1, last do redis.call('LPUSH', KEYS[i], ARGV[message]) end
  at = last + 1
end
return 1
