-- postpone.lua keeps an owed callback for a later try. Insert first: a crash
-- may tell twice, never not at all. Idempotent: the member is the same again.
--
-- KEYS[1] callbacks   KEYS[2] due
-- ARGV[2] entry, of what a settle handed over the member of due, [3] id, [4] type,
--     [5] number, [6] next attempt, [7] delay in ms
-- Returns 1 where the intent was still there, else 0.
even_when_full()
local handed = string.find(ARGV[2], CALLBACK, 1, true)
local there = handed and redis.call('ZSCORE', KEYS[2], ARGV[2]) or not handed and redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not there then return 0 end
local member = CALLBACK .. table.concat({ ARGV[3], ARGV[4], ARGV[5], ARGV[6] }, ' ')
redis.call('ZADD', KEYS[2], int(NOW + tonumber(ARGV[7])), member)
if handed then
  if member ~= ARGV[2] then redis.call('ZREM', KEYS[2], ARGV[2]) end -- as the same attempt it is the same member
  return 1
end
redis.pcall('XACK', KEYS[1], 'deliverers', ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
