-- Keeps the message of a task that has ended without success: `message:<id>` for as long as its result, at most so many and so many bytes of all. `kept`
-- has the ids by the time at which they end, `kept-sizes` their sizes and, without an id, the sum. It is not worth anybody's end: what is refused of it
-- is left out.
local function keep(base, id, seconds, message, most, bytes)
  local order, sizes = base .. 'kept', base .. 'kept-sizes'
  local sum = tonumber(redis.call('HGET', sizes, '')) or 0
  local function drop(id)
    sum = sum - (tonumber(redis.call('HGET', sizes, id)) or 0)
    redis.call('DEL', base .. 'message:' .. id)
    redis.call('HDEL', sizes, id)
    redis.call('ZREM', order, id)
  end
  drop(id)
  local now = tonumber(redis.call('TIME')[1])
  -- What is kept for ever goes like what is kept for ten years.
  local ends = now + (seconds == '0' and 315360000 or tonumber(seconds))
  redis.call('ZADD', order, ends, id)
  redis.call('HSET', sizes, id, #message)
  sum = sum + #message
  if seconds == '0' then
    redis.call('SET', base .. 'message:' .. id, message)
  else
    redis.call('SETEX', base .. 'message:' .. id, seconds, message)
  end
  local count = redis.call('ZCOUNT', order, '-inf', '+inf')
  while count > 0 do
    local first = redis.call('ZRANGE', order, 0, 0, 'WITHSCORES')
    if count <= tonumber(most) and sum <= tonumber(bytes) and tonumber(first[2]) > now then break end
    drop(first[1])
    count = count - 1
  end
  redis.call('HSET', sizes, '', sum)
  redis.call('EXPIRE', order, ends - now)
  redis.call('EXPIRE', sizes, ends - now)
end
