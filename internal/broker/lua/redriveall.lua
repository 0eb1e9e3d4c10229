-- redriveall.lua begins a job, or the part of it that another partition has: to
-- redrive all dead letters that match. Atomic so that a job is counted once;
-- idempotent because a part that is there is left as it is.
--
-- The job, a hash at <prefix>redrive:<id> in each partition that has a part of it;
-- its members in the zset redrives are those that a steward has to look at:
--
--   tenant service code status      which dead letters: '' for all
--   limit until                     how many in all partitions, and who died by then
--   home                            '1' in the partition of the job's ID
--   spread                          '1' once all partitions know of its state
--   state                           running, done, canceled
--   total done failed               what this part has to do and did
--   at after                        instant and ID of the last one looked at
--   created ended
--
-- KEYS[1] part of the job
-- ARGV[2] ID of the job, [3] tenant, [4] service, [5] code, [6] status, [7] most,
--     [8] until in ms, '' for now, [9] '1' at home, else ''
-- Returns {how many dead letters this part has to do}.
local total = redis.call('HGET', KEYS[1], 'total')
if total then return { total } end
local until_ = ARGV[8] == '' and int(NOW) or ARGV[8]
total = math.min(tonumber(ARGV[7]), redis.call('ZCOUNT', dead_key(ARGV[3], ARGV[4], ARGV[5]), '-inf', until_))
redis.call('HSET', KEYS[1], 'tenant', ARGV[3], 'service', ARGV[4], 'code', ARGV[5], 'status', ARGV[6], 'limit', ARGV[7],
  'until', until_, 'home', ARGV[9], 'spread', '', 'state', 'running', 'total', int(total), 'done', '0', 'failed', '0',
  'at', '-inf', 'after', '', 'created', int(NOW))
redis.call('PEXPIRE', KEYS[1], WEEK)
redis.call('ZADD', P .. 'redrives', int(NOW), ARGV[2])
return { int(total) }
