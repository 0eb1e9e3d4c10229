-- sweep.lua finds work that nobody would look for again: entries that were handed
-- out and are not pending, because a worker acknowledged them by itself or
-- somebody deleted its consumer, and entries whose request has ended or is gone.
-- The first keep their lease from when they are found, then they lapse. So do
-- entries that lapse.lua does not find, because their lease is shorter than the
-- service's is now, or because longer ones stand before them. Atomic for the
-- same reason as lapse.lua.
--
-- KEYS[1] stream of the service
-- ARGV[2] service, [3] entry to go on after, '' for the first, [4] bytes after
--     which it stops
-- Returns {entry to go on after, '' at the end, report lines}; lines as in
--     settle.lua, also "lapse id service", and "acked id service" when found.
unless_full()
local service, budget = ARGV[2], tonumber(ARGV[4])
local report = {}
local function note(kind, id) report[#report + 1] = kind .. ' ' .. id .. ' ' .. service end

local function look(entry, f)
  local r = peek(named(f.token) or f.id or '')
  if not r or TERMINAL[r.status] or r.entry ~= entry then return note(disown({ entry = entry, service = service }, f)) end
  local p = redis.pcall('XPENDING', KEYS[1], 'workers', entry, entry, 1)
  if p.err then return end
  local seen = p[1] and NOW - p[1][3] or tonumber(r.acked or nil)
  if seen then -- a worker has it: how long has that been silent?
    if NOW >= seen + r.lease and not unsettled(seen + r.lease) then report[#report + 1] = lapse(unfold(r), f) end
    return
  end
  redis.call('HSET', unfold(r).key, 'acked', int(NOW))
  if not r.started then
    r.started = NOW
    redis.call('HSET', r.key, 'status', 'running', 'started', int(NOW), 'worker', '')
    schedule(r)
    wake(r)
    began(r)
  end
  note('acked', r.id)
end

local last = last_delivered(KEYS[1])
if not last then return { '', report } end
local from, bytes, handful = ARGV[3] == '' and '-' or ARGV[3], 0, 1
local reached = ''
while bytes < budget do
  local entries = redis.call('XRANGE', KEYS[1], from, last, 'COUNT', handful + 1)
  local seen = 0
  for i = 1, #entries do
    if entries[i][1] ~= from then
      local f, flat = {}, entries[i][2]
      for j = 1, #flat, 2 do
        f[flat[j]] = flat[j + 1]
        bytes = bytes + #flat[j + 1]
      end
      look(entries[i][1], f)
      reached, seen = entries[i][1], seen + 1
    end
  end
  if seen == 0 then
    reached = ''
    break
  end
  from, handful = reached, bytes < 65536 and 16 or 1
end
conclude()
return { reached, report }
