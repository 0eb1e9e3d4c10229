-- pause.lua begins a pause of a service, or another one in its place: what was sent to end
-- the one before, and comes late, then names none that there is. See resume.lua. One that
-- comes late itself, when whoever sent it gave up, begins none: somebody may have resumed
-- the service since.
-- Atomic because a resume may come between a look and a write.
--
-- KEYS[1] cc:paused
-- ARGV[2] service, [3] instant in ms from which on nobody waits for this any more
-- Returns since when it is paused, in ms, 0 where it came late: of one that goes on, a
-- millisecond later than it was.
if NOW >= tonumber(ARGV[3]) then return 0 end
redis.pcall('HDEL', KEYS[1], '') -- as even_when_full
local was = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or nil)
local since = int(was and was + 1 or NOW)
redis.call('HSET', KEYS[1], ARGV[2], since)
return since
