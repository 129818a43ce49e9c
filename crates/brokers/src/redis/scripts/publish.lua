-- Puts messages into lists: all of them, or none. What was put under a token is not put again.
-- KEYS: the lists. ARGV: the key of the token or '', how many keys of tokens nobody needs any more, those; then for each list how many, then its messages.
-- What a key that is no list refuses it refuses before anything is written.
local token, over = ARGV[1], tonumber(ARGV[2])
if token ~= '' and redis.call('EXISTS', token) == 1 then return 0 end
for i = 1, #KEYS do redis.call('LLEN', KEYS[i]) end
local done, result = all_or_nothing(function()
  local at = over + 3
  for i = 1, #KEYS do
    local last = at + tonumber(ARGV[at])
    for message = at + 1, last do push('LPUSH', KEYS[i], ARGV[message]) end
    at = last + 1
  end
  if token ~= '' then redis.call('SET', token, '1', 'EX', 3600) end
end)
if not done then error(result, 0) end
for i = 3, over + 2 do redis.pcall('DEL', ARGV[i]) end
return 1
