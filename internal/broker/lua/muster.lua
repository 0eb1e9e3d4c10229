-- muster.lua forgets what workers said of themselves once it no longer counts.
-- Atomic so that no announcement falls between the look and the delete.
--
-- KEYS[1] cc:workers
-- ARGV[2] ms after which an announcement is forgotten
-- Returns how many announcements are left.
redis.call('XTRIM', KEYS[1], 'MINID', int(NOW - tonumber(ARGV[2])))
local left = redis.call('XLEN', KEYS[1])
if left == 0 then redis.call('DEL', KEYS[1]) end
return left
