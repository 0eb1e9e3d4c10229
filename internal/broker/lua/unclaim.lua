-- unclaim.lua puts a work entry back that was claimed and that no worker has seen:
-- who asked for it left before it could be handed over. The attempt stays the same,
-- since it has not begun; the request goes to the end of its line. Atomic for the
-- same reason as lapse.lua: a copy is added before the old entry goes.
--
-- KEYS[1] record
-- ARGV[2] id, [3] token, [4] entry
-- Returns 1 where it was put back, 0 where there is nothing to put back: the
--     request has ended, another attempt has begun, or this ran before.
even_when_full()
local r = load(ARGV[2])
if not r or TERMINAL[r.status] or r.entry ~= ARGV[4] or token(r) ~= ARGV[3] or r.recorded then return 0 end
local f = content(r)
if not f then return 0 end
local old = { entry = r.entry, service = r.service }
enqueue(r, f.content_type or '', f.traceparent or '', f.headers or '', f.body or '')
redis.call('HSET', r.key, 'entry', r.entry)
drop(old)
schedule(r)
wake(r)
publish_wakes()
return 1
