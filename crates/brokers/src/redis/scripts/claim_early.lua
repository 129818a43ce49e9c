-- Takes the next messages from lists for good. A copy stays until the next claim, for whoever did not hear the answer. What is too large to be brought to
-- anybody is not given: its stub is parked, as what is lent is. So is a stub that lies in a list.
-- KEYS: the copy, the paused queues, unacked, unacked_index, then the lists in the order of service.
-- ARGV: how many at most, the number of the first, what stands before the number in a tag, the most bytes of a message, what stands before the tag in the
-- key of one that is put aside; then for each list its queue and the end of its entries.
-- A list of (place of a list, its messages, the next one first); for a key that is no list, in place of messages the error.
local most, number, boot, largest, aside = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local paused = {}
for _, queue in ipairs(redis.call('HKEYS', KEYS[2])) do paused[queue] = true end
local claimed = {}
redis.call('DEL', KEYS[1])
for place = 5, #KEYS do
  if most == 0 then break end
  if not paused[ARGV[place * 2 - 4]] then
    local found = next_of(KEYS[place], most)
    local count = #found
    if found.err then
      -- Another program uses this key: that holds up no other queue.
      claimed[#claimed + 1] = place - 5
      claimed[#claimed + 1] = found.err
    elseif count > 0 then
      for i = 1, count do
        local is_large = #found[i] > largest
        if is_large or is_stub(found[i]) then
          local tag = boot .. (number + i - 1)
          if is_large then found[i] = put_aside(found[i], aside, tag, KEYS[3], KEYS[4]) end
          redis.call('HSET', KEYS[3], tag, '[' .. found[i] .. ARGV[place * 2 - 3])
          redis.call('ZADD', KEYS[4], redis.call('TIME')[1], tag)
        end
      end
      -- Copied before it is taken: a server without memory refuses the copy, and nothing has happened.
      redis.call('RPUSH', KEYS[1], ARGV[2], place - 5, count, unpack(found))
      redis.call('LTRIM', KEYS[place], 0, -count - 1)
      claimed[#claimed + 1] = place - 5
      claimed[#claimed + 1] = found
      most = most - count
      number = number + count
    end
  end
end
redis.call('EXPIRE', KEYS[1], 3600)
return claimed
