-- resume.lua ends a pause of a service, unless that is another one by now: what was sent
-- to end the one before may come late, when nobody waits for it any more.
-- Atomic because the pause that is looked at and the one that ends must be the same.
--
-- KEYS[1] cc:paused
-- ARGV[2] service, [3] since when it is paused
-- Returns 1 where the pause ended, else 0.
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[2])
