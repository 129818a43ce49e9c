-- Putting messages into lists so that nothing of it is done where something else is refused: whoever is refused asks again, with all of it.

-- Command and list of each that was put.
local pushed = {}

local function push(command, list, message)
  local length = redis.call(command, list, message)
  pushed[#pushed + 1], pushed[#pushed + 2] = command, list
  return length
end

-- Calls something that puts messages; where it raises an error they are taken out again. As `pcall` gives back.
local function all_or_nothing(something, ...)
  pushed = {}
  local done, result = pcall(something, ...)
  if not done then
    for at = #pushed - 1, 1, -2 do
      if pushed[at] == 'LPUSH' then redis.pcall('LTRIM', pushed[at + 1], 1, -1) else redis.pcall('LTRIM', pushed[at + 1], 0, -2) end
    end
  end
  return done, result
end
