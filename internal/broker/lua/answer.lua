-- answer.lua takes a worker's reply by the token of its claim, where the claim
-- still holds: who came over HTTP hears at once that its work is wanted no more.
-- Atomic because between a look and the reply another attempt could begin. What
-- it takes is judged by settle.lua like every reply; a repeat does no harm there.
--
-- KEYS[1] record   KEYS[2] reply stream of the partition
-- ARGV[2] id, [3] attempt, [4] nonce, from [5] on the fields of the reply
-- Returns {'taken' | 'gone' | 'foreign' | 'lost', status of the request}
local r = peek(ARGV[2])
if not r or gone(r) then return { 'gone', '' } end
if r.nonce ~= ARGV[4] then return { 'foreign', '' } end
if TERMINAL[r.status] then return { 'lost', r.status } end
if r.attempt ~= tonumber(ARGV[3]) or r.status == 'scheduled' then
  return { 'lost', r.status == 'queued' and claim(r) and 'running' or r.status }
end
if NOW > r.deadline or ((r.run > 0 or r.start > 0) and claim(r) and NOW > clock(r)) then return { 'lost', 'timed_out' } end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 5))
return { 'taken', r.status }
