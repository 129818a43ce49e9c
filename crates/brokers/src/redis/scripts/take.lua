-- What claims have in common.

-- The most that are fetched before it is known how large they are.
local unseen = 8

-- Bytes after which a claim takes no more: nobody else is served meanwhile.
local much = 1048576

-- The next messages of a list, the next one first, at most so many; few where they are large. For a key that is no list its error.
local function next_of(list, most)
  local found, bytes, piece = {}, 0, 1
  while piece > 0 and bytes < much do
    local some = redis.pcall('LRANGE', list, -#found - piece, -#found - 1)
    if some.err then return some end
    for i = #some, 1, -1 do
      found[#found + 1] = some[i]
      bytes = bytes + #some[i]
    end
    if #some < piece then break end
    piece = math.min(3 * #found, most - #found, unseen)
  end
  return found
end

-- Whether it is a stub, as `Stub::is_one` has it: one that a version before this one gave back, or another program.
local function is_stub(message)
  return string.byte(message, 3) == 108 and #message <= 65536 and string.sub(message, 1, 21) == '{"longshore-aside": {'
end

-- Puts a message that is too large to be brought to anybody aside, whole, under a key of its own. The stub that stands for it, which no worker runs: it
-- has what can be told of the message, as far as that is in its ends and needs no escapes.
local function put_aside(message, key, tag, unacked, index)
  -- Where it cannot be parked it shall not lie aside either.
  redis.call('HEXISTS', unacked, tag)
  redis.call('ZSCORE', index, tag)
  redis.call('SET', key .. tag, message)
  local head, tail = string.sub(message, 1, 16384), string.sub(message, -16384)
  local function told(pattern) return string.match(tail, pattern) or string.match(head, pattern) or '' end
  local id = told('"properties":%s*{%s*"correlation_id":%s*"([%w%-_.:@]+)"')
  local task = told('"headers":%s*{[^{}]-"task":%s*"([%w%-_.:@]+)"')
  local priority = told('"priority":%s*(%d)[,}]')
  return '{"longshore-aside": {"tag": "' .. tag .. '", "bytes": ' .. #message .. ', "task": "' .. task .. '", "id": "' .. id
    .. '"}, "body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json", '
    .. '"headers": {"lang": "rust", "task": "longshore.aside", "id": "' .. tag .. '"}, "properties": {"correlation_id": "' .. tag
    .. '", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": ""}, "priority": ' .. (priority == '' and '0' or priority)
    .. ', "body_encoding": "base64", "delivery_tag": "' .. tag .. '"}}'
end
