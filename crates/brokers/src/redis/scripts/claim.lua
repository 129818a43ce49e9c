-- Takes the next messages from lists and parks each under a tag of ours, as kombu parks what it took.
-- KEYS: unacked, unacked_index, the paused queues, then the lists in the order of service.
-- ARGV: how many at most, the first number, what stands before the number in a tag, the most bytes of a message, what stands before the tag in the key of
-- one that is put aside; then for each list its queue and the end of its entries.
-- A list of (place of a list, its messages); for a key that is no list, in place of messages the error.
local most, number, boot, largest, aside = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local paused = {}
for _, queue in ipairs(redis.call('HKEYS', KEYS[3])) do paused[queue] = true end
local claimed = {}
for place = 4, #KEYS do
  if most == 0 then break end
  if not paused[ARGV[place * 2 - 2]] then
    local found = next_of(KEYS[place], most)
    local count = #found
    if found.err then
      -- Another program uses this key: that holds up no other queue.
      claimed[#claimed + 1] = place - 4
      claimed[#claimed + 1] = found.err
    elseif count > 0 then
      local ending = ARGV[place * 2 - 1]
      local entries, scores, messages = {}, {}, {}
      for i = 1, count do
        local message, tag = found[i], boot .. number
        if #message > largest then message = put_aside(message, aside, tag, KEYS[1], KEYS[2]) end
        number = number + 1
        entries[2 * i - 1], entries[2 * i] = tag, '[' .. message .. ending
        scores[2 * i - 1], scores[2 * i] = now, tag
        messages[i] = message
      end
      -- Parked before it is taken: an error in between leaves it twice, never nowhere.
      redis.call('HSET', KEYS[1], unpack(entries))
      redis.call('ZADD', KEYS[2], unpack(scores))
      redis.call('LTRIM', KEYS[place], 0, -count - 1)
      claimed[#claimed + 1] = place - 4
      claimed[#claimed + 1] = messages
      most = most - count
    end
  end
end
return claimed
