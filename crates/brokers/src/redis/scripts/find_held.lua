-- A part of what is parked: what has this text in it. KEYS: unacked, unacked_index. ARGV: cursor, text.
-- The next cursor, then tag, entry, time, tag, entry, time, …
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local found = { page[1] }
for i = 2, #page[2], 2 do
  if string.find(page[2][i], ARGV[2], 1, true) then
    found[#found + 1] = page[2][i - 1]
    found[#found + 1] = page[2][i]
    found[#found + 1] = redis.call('ZSCORE', KEYS[2], page[2][i - 1]) or '0'
  end
end
return found
