-- entrust.lua gives work that a gateway holds (see claim in moves.lua) to a
-- worker: from here on it is claimed, and its lease runs. Atomic because what was
-- canceled, or ran out of time, while it was held must not be handed over, nor what is
-- of a service that was paused meanwhile.
--
-- KEYS[1] record
-- ARGV[2] id, [3] token, [4] entry, [5] worker
-- Returns 1 where the worker has it, 0 where it is nobody's to have any more, 2 where it
--     is to be put back.
local r = peek(ARGV[2])
if not r or TERMINAL[r.status] or r.entry ~= ARGV[4] or token(r) ~= ARGV[3] then return 0 end
if claim(r) then return r.worker == ARGV[5] and 1 or 0 end -- this ran before, or somebody else was faster
if NOW >= clock(r) then return 0 end
if redis.call('HEXISTS', P .. 'limits', 'paused:' .. r.service) == 1 then return 2 end
local p = redis.pcall('XPENDING', queue_key(r.service), 'workers', r.entry, r.entry, 1)
if p.err or not p[1] then return 0 end
redis.call('XCLAIM', queue_key(r.service), 'workers', ARGV[5], 0, r.entry, 'TIME', int(NOW), 'JUSTID')
return 1
