-- Stores documents and tells whoever waits. ARGV: for each K (a stored success stays) or S, key, seconds (0: for ever), document; or M and what `keep` wants.
local at = 1
while at <= #ARGV do
  if ARGV[at] == 'M' then
    pcall(keep, unpack(ARGV, at + 1, at + 6))
    at = at + 7
  else
    local key, seconds, doc = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local stored = ARGV[at] == 'K' and redis.call('GET', key)
    if not (stored and string.find(stored, '^%s*{%s*"status"%s*:%s*"SUCCESS"')) then
      if seconds == '0' then redis.call('SET', key, doc) else redis.call('SETEX', key, seconds, doc) end
      redis.call('PUBLISH', key, doc)
    end
    at = at + 4
  end
end
return 1
