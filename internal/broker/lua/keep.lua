-- keep.lua says that a gateway still tells of an owed callback, so that nobody else is
-- given it. Atomic so that what was settled or handed out again meanwhile stays so.
--
-- KEYS[1] callbacks   KEYS[2] due
-- ARGV[2] entry, of what a settle handed over the member of due, [3] gateway, [4] lease in ms
-- Returns 1 where it is still the gateway's, else 0.
even_when_full()
if string.find(ARGV[2], CALLBACK, 1, true) then
  return redis.call('ZADD', KEYS[2], 'XX', 'CH', int(NOW + ARGV[4]), ARGV[2])
end
local pending = redis.pcall('XPENDING', KEYS[1], 'deliverers', ARGV[2], ARGV[2], 1, ARGV[3])
if pending.err or #pending == 0 then return 0 end
redis.call('XCLAIM', KEYS[1], 'deliverers', ARGV[3], 0, ARGV[2], 'TIME', int(NOW), 'JUSTID')
return 1
