-- group.lua makes the consumer group of a stream, at 0 so that a group which
-- comes back sees what is there. A script for the same reason as announce.lua.
--
-- KEYS[1] stream
-- ARGV[2] group
-- Returns 1 where it was missing, else 0.
redis.pcall('XDEL', KEYS[1], '0-1') -- as even_when_full, in the slot of this key
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[2], '0', 'MKSTREAM')
if not made.err then return 1 end
if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
return redis.error_reply(made.err)
