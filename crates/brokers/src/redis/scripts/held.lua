-- A part of what is parked: counted by its ends, which name exchange and routing key. KEYS: unacked. ARGV: cursor.
-- The next cursor, then end, count, how many of them have a time that is still to come, end, …
local now = tonumber(redis.call('TIME')[1])

-- Seconds since 1970 of a time of ISO 8601, fractions left out; without a zone it is UTC, as Celery reads it. The day's number is Howard Hinnant's `days_from_civil`.
local function seconds(text)
  local year, month, day, hour, minute, second, rest = string.match(text, '^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d)(.*)$')
  if not year then
    return 0
  end
  year, month = tonumber(year), tonumber(month)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400) + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  local sign, hours, minutes = string.match(rest, '([+-])(%d%d):?(%d%d)$')
  local east = sign and (hours * 60 + minutes) * (sign == '+' and 60 or -60) or 0
  return days * 86400 + hour * 3600 + minute * 60 + second - east
end

local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local counts, later = {}, {}
for i = 2, #page[2], 2 do
  local entry = page[2][i]
  local ending = string.match(string.sub(entry, -1024), ',%s*"[^"]*",%s*"[^"]*"%]$') or ''
  counts[ending] = (counts[ending] or 0) + 1
  -- A plain search first: patterns are slow, and entries may be long.
  local at = string.find(entry, '"eta":', 1, true)
  local eta = at and string.match(entry, '^"eta":%s*"([^"]*)"', at)
  if eta and seconds(eta) > now then
    later[ending] = (later[ending] or 0) + 1
  end
end
local found = { page[1] }
for ending, count in pairs(counts) do
  found[#found + 1] = ending
  found[#found + 1] = count
  found[#found + 1] = later[ending] or 0
end
return found
