-- delete.lua forgets a request now; an open one is canceled first, so that its
-- worker hears of it, and who waits for it looks and finds it gone. Atomic because
-- nothing may be left behind.
--
-- KEYS[1] record
-- ARGV[2] id, [4] ms for which a gateway may show from memory that it succeeded, 0 where
--     they are over
-- Returns {'deleted', report line or ''} | {'gone'} | {'young', '', ms to wait}.
even_when_full()
local r = peek(ARGV[2])
if not r or gone(r) then return { 'gone' } end
local most = tonumber(ARGV[4])
local young = r.created + most + 1 - NOW -- both are cut to the millisecond
if r.status == 'succeeded' and most > 0 and young > 0 then return { 'young', '', int(math.min(young, most)) } end
local line = ''
if not TERMINAL[r.status] then
  r.callback = nil -- forgetting also forgets the callback
  line = finish(unfold(r), { status = 'canceled', reason = 'client', code = 'canceled', forgotten = true,
    message = 'The request was deleted by its client.' })
  conclude()
end
forget(r)
return { 'deleted', line }
