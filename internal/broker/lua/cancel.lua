-- cancel.lua records the outcome canceled. An unclaimed entry is deleted before
-- any worker sees it; the worker of a claimed one is told. Atomic because the
-- first outcome wins, and who hears that it was this one must hear it at once: a
-- read that follows may fail.
--
-- KEYS[1] record
-- ARGV[2] id, [3] largest reply body returned
-- Returns {'canceled', report line, view} | {'terminal', '', view} | {'gone'}; the view
--     as in view.go.
even_when_full()
local r = peek(ARGV[2])
if not r or gone(r) then return { 'gone' } end
if TERMINAL[r.status] then return { 'terminal', '', (view(ARGV[2], tonumber(ARGV[3]))) } end
local line = finish(unfold(r), { status = 'canceled', reason = 'client', code = 'canceled',
  message = 'The request was canceled by its client.' })
conclude()
return { 'canceled', line, (view(ARGV[2], tonumber(ARGV[3]))) }
