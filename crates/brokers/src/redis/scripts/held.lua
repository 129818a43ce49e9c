-- A part of what is parked: counted by its ends, which name exchange and routing key. KEYS: unacked. ARGV: cursor.
-- The next cursor, then end, count, end, count, …
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local counts = {}
for i = 2, #page[2], 2 do
  local ending = string.match(string.sub(page[2][i], -1024), ',%s*"[^"]*",%s*"[^"]*"%]$') or ''
  counts[ending] = (counts[ending] or 0) + 1
end
local found = { page[1] }
for ending, count in pairs(counts) do
  found[#found + 1] = ending
  found[#found + 1] = count
end
return found
