-- unclaim.lua puts a work entry back that a gateway holds and that no worker has
-- seen: who asked for it left before it could be entrusted. The attempt stays the
-- same, since it has not begun; the request goes to the end of its line, or waits
-- where the service is paused by now. Atomic for the same reason as lapse.lua: a
-- copy is added before the old entry goes.
--
-- KEYS[1] record
-- ARGV[2] id, [3] token, [4] entry
-- Returns 1 where it was put back, 0 where there is nothing to put back: the
--     request has ended, a worker has it, or this ran before.
even_when_full()
local r = peek(ARGV[2])
if not r or TERMINAL[r.status] or r.entry ~= ARGV[4] or token(r) ~= ARGV[3] or claim(r) then return 0 end
local f = content(r)
if not f then return 0 end
local old = { entry = r.entry, service = r.service }
count('a', r.service, -1) -- it counts as added once, as claimed not at all
readmit(unfold(r), f)
local plan, together = string.gsub(redis.call('HGET', r.key, 'plan'), 'd (%d+ %d+)$', '- %1')
if together > 0 then redis.call('HSET', r.key, 'plan', plan) end -- it is in due as well by now, and its end is to look there
drop(old)
touched[r.service] = true
conclude()
return 1
