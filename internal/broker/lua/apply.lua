-- apply.lua applies one reply, whatever it is: what settle.lua leaves. It is read into
-- settle.lua and shares what that has declared; returned are the functions that settle.lua
-- calls.
local random = tonumber(ARGV[4])

local function note(kind, id, service)
  report[#report + 1] = kind .. ' ' .. (id or '-') .. ' ' .. (service or '-')
end

local function aside(kind, cause, entry, f)
  set_aside(entry, cause, f)
  note(kind)
end

-- verdict is what was judged of a final reply: nil for none wanted, false where it
-- is still to come, else its place among the ARGV.
local function verdict(r, entry)
  if not wants_verdict(r.service) then return nil end
  return verdicts[entry] or false
end

-- time_to_cache is the ms for which the worker lets its reply be cached; nil where it
-- left that to the service.
local function time_to_cache(f)
  local ms = number(f.cache_ttl)
  return ms and math.floor(math.min(ms, WEEK)) or nil
end

-- renew lets the worker keep its entry from the instant at which Redis took
-- the reply, and fixes when the attempt was claimed.
local function renew(r, at)
  if not claim(r) then return end
  if not r.recorded then
    redis.call('HSET', r.key, 'status', 'running', 'started', int(r.started), 'worker', r.worker)
    r.status = 'running'
    schedule(r)
    wake(r)
    began(r)
  end
  -- Only who holds the entry keeps it: claiming for somebody else would steal it.
  local p = redis.pcall('XPENDING', queue_key(r.service), 'workers', r.entry, r.entry, 1)
  if not p.err and p[1] then
    redis.call('XCLAIM', queue_key(r.service), 'workers', p[1][2], 0, r.entry, 'TIME', int(at), 'JUSTID')
  else
    redis.call('HSET', r.key, 'acked', int(at)) -- see sweep.lua
  end
end

local event_limits = {} -- by service: how many events, and bytes of them, a request keeps
for service, n, bytes in string.gmatch(ARGV[5], '(%S+) (%d+) (%d+)\n') do
  event_limits[service] = { tonumber(n), tonumber(bytes) }
end

-- remember is append within the limits of the service. Beyond them the oldest go;
-- the latest always stays. A scatter has those of no service.
local function remember(r, line)
  local n, bytes = append(r, line)
  local most, cut = event_limits[r.service] or event_limits['*'], 0
  while n > 1 and (n > most[1] or bytes - cut > most[2]) do
    cut, n = cut + #redis.call('LPOP', events_key(r.id)), n - 1
  end
  if cut > 0 then redis.call('HINCRBY', r.key, 'event_bytes', -cut) end
end

local function retry(r, f, n, at)
  local message = f.error or 'The worker asked for another attempt.'
  if r.attempt >= r.max then
    return finish(r, { status = 'failed', reason = 'max_attempts', code = f.error_code or 'max_attempts',
      message = message, by_worker = true, at = at })
  end
  local c = content(r)
  if not c then
    return finish(r, { status = 'failed', reason = 'worker', code = 'entry_lost', by_worker = true, at = at,
      message = 'The worker asked for another attempt, but the body is no longer in Redis.' })
  end
  local delay = number(f.delay)
  if not delay then
    local base = r.backoff * 2 ^ (r.attempt - 1)
    delay = base / 2 + base / 2 * ((random + n * 0.618) % 1)
  end
  again(r, c, f.error_code or 'retry', message, math.min(delay, WEEK))
  note('retry', r.id, r.service)
  return nil
end

local function apply(entry, f, n)
  local id, attempt, nonce = named(f.token)
  if not id then return aside('garbage', 'token', entry, f) end
  local r = peek(id)
  if not r then return note('orphan', id) end
  if nonce ~= r.nonce then return aside('foreign', 'nonce', entry, f) end
  attempt = tonumber(attempt)
  local kind, at = f.type, stream_ms(entry)
  if TERMINAL[r.status] then
    local again = attempt == r.attempt and (kind == 'final' or kind == 'failed') and r.status ~= 'timed_out' and r.status ~= 'canceled'
    return note(again and 'duplicate' or 'late', id, r.service)
  end
  if attempt ~= r.attempt or r.status == 'scheduled' then return note('stale', id, r.service) end
  if at > r.deadline or ((r.run > 0 or r.start > 0) and claim(r) and at > clock(r)) then return note('late', id, r.service) end
  unfold(r)
  local seq = number(f.seq)
  if seq then
    if seq <= r.wseq then return note('duplicate', id, r.service) end
    if seq > r.wseq + 1 then note('gap', id, r.service) end
    r.wseq = seq
  end
  local body = f.body or ''

  if kind == 'final' or kind == 'failed' then
    local whole = r.parents and not r.content and load(r.parents)
    local kept = not string.find(r.events, 'm', 1, true)
    if kept and #body + (whole and whole.bytes or 0) > largest then -- those of a scatter together are one reply
      report[#report + 1] = finish(r, { status = 'failed', reason = 'worker', code = 'reply_too_large', by_worker = true, at = at,
        message = 'The reply of the worker is larger than this gateway keeps.' })
      return note('oversize', id, r.service)
    end
    local v
    if kind == 'final' then v = verdict(r, entry) end
    if v == false then return 'judge' end
    if v and ARGV[v + 1] == 'fail' then
      report[#report + 1] = finish(r, { status = 'failed', reason = 'intercepted', code = ARGV[v + 2], message = ARGV[v + 3], by_worker = true, at = at })
      return
    elseif v and ARGV[v + 1] == 'change' then
      f.content_type, f.status_code, body = ARGV[v + 4], ARGV[v + 5], ARGV[v + 6]
    end
    local o = { rtype = content_type(f.content_type), reply = body, by_worker = true, at = at, cache = time_to_cache(f),
      rstatus = status_code(f.status_code) }
    if kind == 'final' and o.cache and o.cache > 0 and not r.content then note('cacheable', id, r.service) end
    if f.headers and #f.headers <= MAX_REPLY_HEADERS then o.rheaders = f.headers end
    if kind == 'final' then
      o.status, o.reason = 'succeeded', ''
    else
      o.status, o.reason, o.code = 'failed', 'worker', f.error_code or 'worker_error'
      o.message = f.error or 'The worker reported a failure.'
      if body == '' then o.reply, o.rtype = nil, nil end
    end
    report[#report + 1] = finish(r, o)
    return
  end
  if kind == 'retry' then
    local line = retry(r, f, n, at)
    if line then report[#report + 1] = line end
    return
  end
  if kind ~= 'progress' and kind ~= 'partial' and kind ~= 'heartbeat' then
    return aside('garbage', 'type', entry, f)
  end
  renew(r, at)
  if seq then redis.call('HSET', r.key, 'wseq', int(seq)) end
  if kind == 'heartbeat' then return note('heartbeat', id, r.service) end
  if #body > tonumber(ARGV[6]) then return aside('oversize', 'event', entry, f) end
  local to, leg = r, ''
  if r.parents and not r.content then -- the whole tells of it
    to, leg = load(r.parents), '/' .. leg_of(id)
    if not to then return note('orphan', id) end
  end
  remember(to, int(at) .. ' ' .. kind .. leg .. ' ' .. content_type(f.content_type) .. '\n' .. body)
  if kind == 'progress' then
    local function tell(of) if of and of.callback and string.find(of.events, 'p', 1, true) then owe(of, 'progress', to.seq) end end
    tell(to)
    for sharer in string.gmatch(r.content and r.parents or '', '%S+') do tell(load(sharer)) end
  end
  wake(to)
  note('event', id, r.service)
end

-- look_ahead lists the first replies from an entry on that want a verdict, so that
-- they are judged together.
local function look_ahead(from)
  local found, ahead = {}, redis.call('XRANGE', replies, from, '+', 'COUNT', 16)
  for i = 1, #ahead do
    local f, flat = {}, ahead[i][2]
    for j = 1, #flat, 2 do f[flat[j]] = flat[j + 1] end
    local id = named(f.token)
    local r = id and f.type == 'final' and peek(id)
    if r and not TERMINAL[r.status] and verdict(r, ahead[i][1]) == false then found[#found + 1] = ahead[i][1] .. ' ' .. r.service end
  end
  return found
end

return { apply = apply, aside = aside, look_ahead = look_ahead }
