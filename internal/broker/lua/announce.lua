-- announce.lua makes a service known. A script only because a full Redis refuses
-- the bare command even where it would change nothing, and a gateway or a worker
-- that starts then must be able to: it is what makes room.
--
-- KEYS[1] cc:services
-- ARGV[2] service, [3] what is known of it, as JSON, [4] 1 to write over what is there
-- Returns 1 where it wrote, else 0.
redis.call('HDEL', KEYS[1], '') -- as even_when_full, in the slot of this key
if ARGV[4] ~= '1' then return redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3]) end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
