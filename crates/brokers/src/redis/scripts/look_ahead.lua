-- Looks whether one of some words stands in the first or last bytes of the next messages of a queue. No message leaves the server; when they come to a
-- mebibyte no further one is looked at.
-- KEYS: the lists of the queue, in the order of service. ARGV: how many messages at most, how many bytes of each end, the words.
-- 1 where one does, 0 where none does.
local most, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local looked, bytes = 0, 0
for _, list in ipairs(KEYS) do
  local place = 0
  while looked < most and bytes < 1048576 do
    place = place + 1
    local some = redis.pcall('LRANGE', list, -place, -place)
    if some.err or not some[1] then break end
    local message = some[1]
    looked, bytes = looked + 1, bytes + #message
    local head, tail = string.sub(message, 1, size), string.sub(message, -size)
    for i = 3, #ARGV do
      if string.find(head, ARGV[i], 1, true) or string.find(tail, ARGV[i], 1, true) then return 1 end
    end
  end
end
return 0
