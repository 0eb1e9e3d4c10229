-- cancel.lua records the outcome canceled. An unclaimed entry is deleted before
-- any worker sees it; the worker of a claimed one is told. Atomic because the
-- first outcome wins.
--
-- KEYS[1] record
-- ARGV[2] id
-- Returns {'canceled', report line} | {'terminal'} | {'gone'}.
even_when_full()
local r = load(ARGV[2])
if not r or gone(r) then return { 'gone' } end
if TERMINAL[r.status] then return { 'terminal' } end
local line = finish(r, { status = 'canceled', reason = 'client', code = 'canceled',
  message = 'The request was canceled by its client.' })
conclude()
return { 'canceled', line }
