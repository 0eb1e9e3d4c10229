-- pause.lua begins a pause of a service, or another one in its place: what was sent to end
-- the one before, and comes late, then names none that there is. See resume.lua.
-- Atomic because a resume may come between a look and a write.
--
-- KEYS[1] cc:paused
-- ARGV[2] service
-- Returns since when it is paused, in ms: of one that goes on, a millisecond later than it was.
redis.pcall('HDEL', KEYS[1], '') -- as even_when_full
local was = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or nil)
local since = int(was and was + 1 or NOW)
redis.call('HSET', KEYS[1], ARGV[2], since)
return since
