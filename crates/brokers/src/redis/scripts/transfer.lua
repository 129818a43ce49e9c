-- Moves messages from the front of one list to the back of another. KEYS: from, to. ARGV: how many at most. How many it were.
local moved = 0
while moved < tonumber(ARGV[1]) and redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT') do moved = moved + 1 end
return moved
