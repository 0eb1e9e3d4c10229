-- steward.lua takes or renews the lease of a partition's upkeep. Atomic because
-- the lease is renewed only by who holds it.
--
-- KEYS[1] steward
-- ARGV[2] gateway, [3] lease in ms
-- Returns {1, lease} where the gateway holds it now, else {0, ms it still has}.
even_when_full() -- without a steward nothing would end, and nothing make room
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return { 0, redis.call('PTTL', KEYS[1]) } end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return { 1, tonumber(ARGV[3]) }
