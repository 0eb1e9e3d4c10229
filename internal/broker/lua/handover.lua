-- handover.lua gives up the lease of a partition's upkeep, and tells the others
-- so that one of them takes over at once. Atomic: only the holder's is deleted.
--
-- KEYS[1] steward
-- ARGV[2] gateway, [3] partition
-- Returns 1 where the gateway held it, else 0.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', 'cc:stewards', ARGV[3])
return 1
