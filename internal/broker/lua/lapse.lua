-- lapse.lua takes work away from workers that fell silent: a copy with the next
-- attempt is added, then the old entry is acknowledged and deleted. So workers
-- only ever read new entries. Atomic because between the two the request would
-- be lost, or run twice with one token.
--
-- KEYS[1] stream of the service
-- ARGV[2] service, [3] shortest lease in ms, [4] most entries
-- Returns {'settle' | 'done' | 'nogroup', report lines}; lines as in settle.lua,
-- also "lapse id service".
even_when_full()
local service = ARGV[2]
local report = {}
local function note(kind, id) report[#report + 1] = kind .. ' ' .. id .. ' ' .. service end

local silent = redis.pcall('XPENDING', KEYS[1], 'workers', 'IDLE', ARGV[3], '-', '+', tonumber(ARGV[4]))
if silent.err then
  if string.find(silent.err, 'NOGROUP', 1, true) then return { 'nogroup', report } end
  return redis.error_reply(silent.err)
end

local oldest
if #silent > 0 and redis.call('XLEN', P .. 'replies') > 0 then
  oldest = stream_ms(redis.call('XRANGE', P .. 'replies', '-', '+', 'COUNT', 1)[1][1])
end

local function lapse(entry, idle)
  local found = { entry = entry, service = service }
  local f = content(found)
  if not f or not f.id then -- deleted by somebody else, or none of ours
    drop(found)
    return note('orphan', '-')
  end
  local r = load(f.id)
  if not r or TERMINAL[r.status] or r.entry ~= entry then -- e.g. back after a failover
    drop(found)
    return note('orphan', f.id)
  end
  if idle < r.lease then return end
  if oldest and oldest <= NOW - idle + r.lease then return 'settle' end
  if r.attempt >= r.max then
    claim(r)
    report[#report + 1] = finish(r, { status = 'failed', reason = 'max_attempts', code = 'lease_lapsed',
      message = 'The worker of the last attempt fell silent.' })
    return
  end
  next_attempt(r)
  enqueue(r, f.content_type or '', f.traceparent or '', f.headers or '', f.body or '')
  redis.call('HSET', r.key, 'status', 'queued', 'attempt', int(r.attempt), 'entry', r.entry)
  drop(found)
  count('a', service, 1)
  schedule(r)
  wake(r)
  note('lapse', r.id)
end

local verdict = 'done'
for i = 1, #silent do
  verdict = lapse(silent[i][1], silent[i][3]) or verdict
  if verdict == 'settle' then break end
end
publish_wakes()
return { verdict, report }
