-- spread.lua notes that all partitions know of the state of a job. Compare-and-set,
-- so that a job that was stopped meanwhile is made known again.
--
-- KEYS[1] part of the job at home, see redriveall.lua
-- ARGV[2] ID of the job, [3] the state that they know of: canceled, or another
-- Returns {'spread' | 'changed'}.
local state = redis.call('HGET', KEYS[1], 'state')
if not state or (state == 'canceled') ~= (ARGV[3] == 'canceled') then return { 'changed' } end
redis.call('HSET', KEYS[1], 'spread', '1')
if state ~= 'running' then redis.call('ZREM', P .. 'redrives', ARGV[2]) end
return { 'spread' }
