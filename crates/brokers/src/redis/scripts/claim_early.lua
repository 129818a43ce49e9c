-- Takes the next messages from lists for good. A copy stays until the next claim, for whoever did not hear the answer.
-- KEYS: the copy, the paused queues, then the lists in the order of service.
-- ARGV: how many at most, the number of the first; then for each list its queue.
-- A list of (place of a list, its messages, the next one last); for a key that is no list, in place of messages the error.
local most = tonumber(ARGV[1])
local paused = {}
for _, queue in ipairs(redis.call('HKEYS', KEYS[2])) do paused[queue] = true end
local claimed = {}
redis.call('DEL', KEYS[1])
for place = 3, #KEYS do
  if most == 0 then break end
  if not paused[ARGV[place]] then
    local found = redis.pcall('LRANGE', KEYS[place], -most, -1)
    local count = #found
    if found.err then
      -- Another program uses this key: that holds up no other queue.
      claimed[#claimed + 1] = place - 3
      claimed[#claimed + 1] = found.err
    elseif count > 0 then
      -- Copied before it is taken: a server without memory refuses the copy, and nothing has happened.
      redis.call('RPUSH', KEYS[1], ARGV[2], place - 3, count, unpack(found))
      redis.call('LTRIM', KEYS[place], 0, -count - 1)
      claimed[#claimed + 1] = place - 3
      claimed[#claimed + 1] = found
      most = most - count
    end
  end
end
redis.call('EXPIRE', KEYS[1], 3600)
return claimed
