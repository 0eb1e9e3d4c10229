-- retry.lua redrives a failed or timed-out request: a new one is made of it, in
-- the same partition. Atomic so that there is never a second one, and that the
-- body is always somewhere; idempotent because the old record names the new one.
--
-- KEYS[1] record, KEYS[2] record of the new request
-- ARGV[2] id, [3] ID and [4] nonce of the new request, [5] most requests that are
--     queued or wait, [6] concurrency of the service or 0
-- Returns {'accepted' | 'replayed', ID of the new request} | {'refused' where it is
--     open, succeeded or canceled} | {'full'} | {'lost'} | {'taken'} | {'gone'}.
local r = peek(ARGV[2])
if not r or gone(r) then return { 'gone' } end
if r.status ~= 'failed' and r.status ~= 'timed_out' then return { 'refused' } end
local earlier = redis.call('HGET', r.key, 'retried_as')
if earlier then return { earlier == ARGV[3] and 'accepted' or 'replayed', earlier } end
local verdict = redrive(r, ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6])
conclude()
return { verdict, ARGV[3] }
