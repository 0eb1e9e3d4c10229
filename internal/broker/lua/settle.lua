-- settle.lua takes what workers sent off the reply stream, oldest first, and
-- applies it: events are numbered, leases renewed, outcomes stored, and the
-- work entry is acknowledged and deleted in the same step. Atomic because the
-- reply is the acknowledgement: a reply is either still here or fully applied.
-- Most replies are plain, and settled by succeed.lua before this comes to them; this
-- applies any.
--
-- KEYS[1] reply stream of the partition
-- ARGV[2] most replies, [3] bytes after which it stops, [4] a random number in
--     [0,1) for the back-off, [5] how many events and bytes of them a request
--     keeps, a line "service events bytes" each, "*" for the others, [6] largest
--     event, [7] largest reply that is kept, [8] services whose final replies are
--     judged first, each between spaces, "*" for all, [9] gateway that calls; then seven
--     for each verdict:
--     [10] entry, 'pass', 'change' or 'fail', error code, message, content type, status
--     code, body
-- Returns {left on the stream, report lines, "entry service" to be judged, wake-ups of the
--     caller that tell of outcomes, its others}: the script stops before the first final
--     reply that wants a verdict and has none. A line is
--     "outcome id service status reason total-ms run-ms attempt", or
--     "event|heartbeat|retry|late|duplicate|stale|orphan|foreign|garbage|oversize id service".
even_when_full()
local replies = KEYS[1]
local most, budget, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[7])
local random = tonumber(ARGV[4])
local CROWD = 128 -- outcomes after which it stops: one reply may end a hundred requests
local report, judged, verdicts = {}, ARGV[8], {}
for i = 10, #ARGV, 7 do verdicts[ARGV[i]] = i end

-- wants_verdict tells whether the final replies of a service are judged first.
local function wants_verdict(service)
  return judged ~= '' and (string.find(judged, ' ' .. service .. ' ', 1, true) or string.find(judged, ' * ', 1, true)) and true or false
end

-- content_type is what the worker said, in one line of a bounded length.
local function content_type(text) return string.sub((string.gsub(text or '', '%c', '')), 1, 255) end

-- number reads what a worker wrote as one. Lua takes nan, inf and 0x10 for
-- numbers too: Redis does not, and a script that it stops has done half its work.
local function number(text)
  return text and #text <= 15 and string.match(text, '^%d+%.?%d*$') and tonumber(text) or nil
end

-- status_code is the one that a worker gave its reply, '' where it is none.
local function status_code(text)
  local code = number(text)
  return code and code >= 200 and code <= 599 and int(math.floor(code)) or ''
end

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

local function fields(flat)
  local f = {}
  for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
  return f
end

-- own are the wake-ups of the caller under one of its names, in pieces. They are not
-- published: the answer brings them sooner.
local function own(gateway)
  local list = wakes[gateway] or {}
  wakes[gateway] = nil
  return list
end

local to_judge, left = {}, nil
-- Small replies are read by growing handfuls, large ones one by one: a script
-- must not hold a hundred replies of 10 MiB in memory at once. A handful is read
-- before its size is known, so that 16 large ones behind small ones are the most.
local done, bytes, handful = 0, 0, 2
while done < most and bytes < budget and ended < CROWD do
  local asked = math.min(handful, most - done)
  local entries = redis.call('XRANGE', replies, '-', '+', 'COUNT', asked)
  if #entries == 0 then left = 0; break end
  local ids, stopped = {}, false
  for i = 1, #entries do
    local entry, f = entries[i][1], fields(entries[i][2])
    for _, value in pairs(f) do bytes = bytes + #value end
    local fine, said = pcall(apply, entry, f, done + 1)
    if not fine then -- it would stop this script again and again, and all that come after it
      f.body = (hopeless(said) or error(said)) .. ': ' .. (f.body or '')
      aside('garbage', 'error', entry, f)
    elseif said == 'judge' then
      stopped = entry
      break
    end
    done = done + 1
    ids[i] = entry
    if ended >= CROWD then break end
  end
  if #ids > 0 then redis.call('XDEL', replies, unpack(ids)) end
  if stopped then
    to_judge = look_ahead(stopped)
    break
  end
  if #ids < asked and #ids == #entries then left = 0; break end
  handful = bytes / done < 16384 and math.min(handful * 2, 16) or 1
end
write_gathered()
if lined() then risk(make_rooms, release) end -- as conclude does
local told_of, woken = own('+' .. ARGV[9]), own(ARGV[9])
publish_wakes()
return { left or redis.call('XLEN', replies), report, to_judge, told_of, woken }
