-- clear.lua takes dead letters out of the index whose retention is over. Atomic
-- because a dead letter is in several sets at once.
--
-- KEYS[1] graves
-- ARGV[2] most
-- Returns how many were pruned.
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(NOW), 'LIMIT', 0, tonumber(ARGV[2]))
for i = 1, #over do
  local id, service, length, rest = string.match(over[i], '^(%S+) (%S+) (%d+) (.*)$')
  length = tonumber(length)
  unbury(id, string.sub(rest, 1, length), service, string.sub(rest, length + 1))
end
return #over
