-- delivered.lua settles an owed callback. The last one lets a record that
-- outlived its retention go. Atomic and idempotent: only who deletes the
-- intent counts it.
--
-- KEYS[1] callbacks
-- ARGV[2] entry, [3] id
-- Returns 1 where the intent was still there, else 0.
even_when_full()
redis.pcall('XACK', KEYS[1], 'deliverers', ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
local r = load(ARGV[3])
if not r then return 1 end
if owes(r, -1) <= 0 and r.finished then expire(r) end
return 1
