-- stopredrive.lua stops the part of a job that a partition has. Where there is
-- none yet, it leaves word for whoever would begin it late.
--
-- KEYS[1] part of the job, see redriveall.lua
-- ARGV[2] ID of the job, [3] '1' at home, where all partitions must be told, else ''
-- Returns {'stopped' | 'ended' before | 'gone'}.
even_when_full()
local state, spread = unpack(redis.call('HMGET', KEYS[1], 'state', 'spread'))
if not state and ARGV[3] == '1' then return { 'gone' } end
if state == 'canceled' then return { 'stopped' } end
if ARGV[3] ~= '1' then
  if state == 'done' then return { 'ended' } end
  redis.call('ZREM', P .. 'redrives', ARGV[2])
else
  redis.call('ZADD', P .. 'redrives', int(NOW), ARGV[2])
end
if not state then redis.call('HSET', KEYS[1], 'total', '0', 'done', '0', 'failed', '0') end
redis.call('HSET', KEYS[1], 'state', 'canceled', 'ended', int(NOW), 'spread', '')
redis.call('PEXPIRE', KEYS[1], 86400000)
return { 'stopped' }
