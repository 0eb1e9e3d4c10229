-- prelude.lua stands before every script of this room. It knows the record of
-- a request and the moves that several verbs share: finish, enqueue, park, wake.
--
-- ARGV[1] is always the prefix of the partition, e.g. "cc:{0}:"; every key
-- below carries that hash tag, so one script stays in one slot. KEYS[1] routes.
--
-- The record, a hash at <prefix>request:<id>. Values of up to 64 bytes keep it
-- in Redis' compact encoding:
--
--   service tenant nonce trace callback retry_of idem      set by submit
--   plan      "created timeout start run lease max retention events ordinal"
--             in ms; events is a subset of the letters sftcp, or "-"
--   status attempt entry                                   where it stands
--   started worker wseq                                    of this attempt
--   acked     last sign of life of a worker that acked its entry itself
--   release                                                while scheduled
--   seq       number of the latest progress or partial reply
--   waiters   gateways to wake, separated by spaces
--   owed      callbacks not yet delivered
--   finished reason code message rtype rstatus reply       the outcome
--   body content_type headers                              while parked
local P = ARGV[1]

local WEEK = 604800000       -- safety net: how long a forgotten open record lives
local CALLBACK_WINDOW = 172800000 -- longest a record outlives its retention for an owed callback
local MAX_MESSAGE = 1024     -- bytes of a worker's error message that are kept
local MAX_CODE = 64          -- bytes of a worker's error code that are kept
local MAX_WAITERS = 64       -- gateways; the oldest is dropped, and re-reads by itself

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- even_when_full lets a script that ends work store its outcome although Redis
-- is at maxmemory: Redis refuses a growing command only as the first write of a
-- script, and a DEL never grows. Admission keeps a fifth of the memory free for
-- this.
local function even_when_full() redis.call('DEL', P .. 'none') end

local function int(n) return string.format('%.0f', n) end
local function stream_ms(id) return tonumber(string.match(id, '^(%d+)')) end
local function record_key(id) return P .. 'request:' .. id end
local function events_key(id) return P .. 'events:' .. id end
local function queue_key(service) return P .. 'queue:' .. service end

local TERMINAL = { succeeded = 's', failed = 'f', timed_out = 't', canceled = 'c' }

-- load reads what the moves need, or returns nil.
local function load(id)
  local key = record_key(id)
  local v = redis.call('HMGET', key, 'service', 'plan', 'status', 'attempt', 'entry',
    'started', 'worker', 'wseq', 'seq', 'waiters', 'nonce', 'idem', 'release', 'callback', 'finished')
  if not v[1] or not v[2] then return nil end
  local r = { id = id, key = key, service = v[1], status = v[3], attempt = tonumber(v[4]),
    entry = v[5], started = tonumber(v[6] or nil), worker = v[7], wseq = tonumber(v[8] or 0),
    seq = tonumber(v[9] or 0), waiters = v[10], nonce = v[11], idem = v[12],
    release = tonumber(v[13] or nil), callback = v[14], finished = tonumber(v[15] or nil) }
  local created, timeout, start, run, lease, max, retention, events, ordinal =
    string.match(v[2], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+)$')
  r.created, r.start, r.run, r.lease = tonumber(created), tonumber(start), tonumber(run), tonumber(lease)
  r.deadline = r.created + tonumber(timeout)
  r.max, r.retention, r.events = tonumber(max), tonumber(retention), events
  r.recorded = r.started ~= nil
  return r
end

-- gone tells whether a record is kept only for a callback that is still owed.
local function gone(r) return r.finished and NOW >= r.finished + r.retention end

-- claim reads off the pending list who holds the entry since when, and
-- remembers it in r. Nothing is written: claiming costs no command.
local function claim(r)
  if r.started or not r.entry then return r.started end
  local p = redis.pcall('XPENDING', queue_key(r.service), 'workers', r.entry, r.entry, 1)
  if p.err or not p[1] then return nil end
  r.worker, r.started = p[1][2], math.max(NOW - p[1][3], stream_ms(r.entry)) -- idle times are rounded
  return r.started
end

-- clock tells which clock of r runs out first by what is known of its claim, and
-- when. A claim after the start timeout does not stop that clock: it ran out
-- before, only nobody looked.
local function clock(r)
  local at, reason = r.deadline, 'total'
  if r.release then return at, reason end
  local start = r.created + r.start
  if r.start > 0 and r.attempt == 1 and start < at and not (r.started and r.started <= start) then at, reason = start, 'start' end
  if r.run > 0 and r.started and r.started + r.run < at then at, reason = r.started + r.run, 'run' end
  return at, reason
end

-- next_due is the next instant at which something must be decided about r.
-- A claim that nobody has seen by now can't have begun before now, so looking
-- again one run_timeout later is still exact. Where a short run timeout meets a
-- long line, looking that often would cost more than it tells: then a timeout
-- may fire late by an eighth of the time in the line, by a second at most.
local function next_due(r)
  local at = clock(r)
  if r.release then return math.min(at, r.release) end
  if r.run > 0 and not r.started then
    at = math.min(at, NOW + math.max(r.run, math.min(1000, (NOW - r.created) / 8)))
  end
  return at
end

local function schedule(r) redis.call('ZADD', P .. 'due', int(next_due(r)), r.id) end

local function token(r) return r.id .. '.' .. int(r.attempt) .. '.' .. r.nonce end

-- unsettled tells whether a reply that Redis took by an instant still waits to
-- be settled. Nothing that is due then may be decided before.
local oldest -- of the unsettled replies in ms, read once a script; false for none
local function unsettled(at)
  if oldest == nil then
    local first = redis.call('XRANGE', P .. 'replies', '-', '+', 'COUNT', 1)[1]
    oldest = first and stream_ms(first[1]) or false
  end
  return oldest and oldest <= at
end

-- enqueue puts a work entry for the present attempt on the stream.
local function enqueue(r, content_type, trace, headers, body)
  r.entry = redis.call('XADD', queue_key(r.service), '*', 'id', r.id, 'token', token(r),
    'reply_to', P .. 'replies', 'service', r.service, 'attempt', int(r.attempt),
    'deadline', int(r.deadline), 'lease', int(r.lease), 'content_type', content_type,
    'traceparent', trace, 'headers', headers, 'body', body)
  r.status = 'queued'
end

-- content reads what enqueue needs from the entry, or nil where it is gone.
local function content(r)
  local found = r.entry and redis.call('XRANGE', queue_key(r.service), r.entry, r.entry)[1]
  if not found then return nil end
  local f, flat = {}, found[2]
  for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
  return f
end

-- park moves the body from the stream into the record: one copy, always.
local function park(r)
  local f = content(r)
  if f then
    redis.call('HSET', r.key, 'body', f.body or '', 'content_type', f.content_type or '', 'headers', f.headers or '')
  end
end

-- drop takes the entry off the stream. XACK comes first: a deleted entry that
-- is still pending would be handed out empty.
local function drop(r)
  if not r.entry then return end
  redis.pcall('XACK', queue_key(r.service), 'workers', r.entry)
  redis.call('XDEL', queue_key(r.service), r.entry)
end

-- next_attempt makes room for another try: the old token is stale from here on.
local function next_attempt(r)
  r.attempt = r.attempt + 1
  r.started, r.recorded, r.worker, r.wseq, r.release = nil, false, nil, 0, nil
  redis.call('HDEL', r.key, 'started', 'worker', 'wseq', 'release', 'acked')
end

-- Wake-ups are gathered and published once a gateway at the end of a script.
local wakes = {}
local function wake(r)
  if not r.waiters then return end
  for gateway in string.gmatch(r.waiters, '%S+') do
    wakes[gateway] = (wakes[gateway] and wakes[gateway] .. ' ' or '') .. r.id
  end
end
local function publish_wakes()
  for gateway, ids in pairs(wakes) do redis.call('PUBLISH', 'cc:wake:' .. gateway, ids) end
end

-- owe stores the intent to tell the client about an event.
local function owe(r, kind, number)
  redis.call('XADD', P .. 'callbacks', '*', 'id', r.id, 'type', kind, 'number', int(number), 'attempt', '1')
  redis.call('HINCRBY', r.key, 'owed', 1)
end

-- binding is the key that binds the idempotency key of r, or nil where it has
-- none or the key means a newer request by now: a record that is kept for a
-- callback outlives its binding.
local function binding(r)
  local key = r.idem and P .. 'idempotency:' .. r.idem
  local bound = key and redis.call('GET', key)
  if bound and string.sub(bound, 1, #r.id) == r.id then return key end
end

-- expire sets when the record is forgotten: its retention after the outcome,
-- or later while a callback is owed.
local function expire(r)
  local at = r.finished + r.retention
  local owed = tonumber(redis.call('HGET', r.key, 'owed') or 0)
  if owed > 0 then at = math.max(at, r.finished + CALLBACK_WINDOW) end
  redis.call('PEXPIREAT', r.key, int(at))
  redis.call('PEXPIREAT', events_key(r.id), int(at))
  local bound = binding(r)
  if bound then redis.call('PEXPIREAT', bound, int(r.finished + r.retention)) end
end

-- Counters of a service: a(dded to the stream), f(inished after a claim), b(usy ms).
local function count(field, service, by) redis.call('HINCRBY', P .. 'counts', field .. ':' .. service, int(by)) end

-- kept tells the table how many records of a status are forgotten by when, in
-- steps of five minutes: a bounded index instead of a scan.
local function kept(r, by)
  local slot = math.ceil((r.finished + r.retention) / 300000)
  redis.call('HINCRBY', P .. 'kept', r.status .. ':' .. int(slot), by)
end

-- finish records the one outcome of r. o: status, reason, code, message, and
-- rtype, rstatus, reply of the worker. Everything is added before anything is
-- taken away. Returns a line for the report.
local function finish(r, o)
  local claimed = claim(r)
  r.status, r.finished = o.status, NOW
  local f = { 'status', o.status, 'finished', int(NOW), 'reason', o.reason or '' }
  local function set(name, value)
    if value then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('code', o.code and string.sub(o.code, 1, MAX_CODE))
  set('message', o.message and string.sub(o.message, 1, MAX_MESSAGE))
  set('rtype', o.rtype)
  set('rstatus', o.rstatus)
  set('reply', o.reply)
  if claimed then set('started', int(claimed)); set('worker', r.worker) end
  redis.call('HSET', r.key, unpack(f))
  if o.status == 'failed' or o.status == 'timed_out' then park(r) end -- a dead letter, to be redriven
  if r.callback and string.find(r.events, TERMINAL[o.status], 1, true) then owe(r, o.status, r.seq + 1) end
  expire(r)
  wake(r)
  kept(r, 1)
  if claimed then
    count('f', r.service, 1)
    count('b', r.service, math.max(0, NOW - claimed))
  end
  if claimed and not o.by_worker then redis.call('PUBLISH', 'cc:cancel:' .. r.service, r.id) end
  redis.call('ZREM', P .. 'due', r.id)
  redis.call('ZREM', P .. 'waiting:' .. r.service, r.id)
  redis.call('HDEL', r.key, 'waiters', 'wseq', 'release', 'acked')
  if o.status == 'succeeded' or o.status == 'canceled' then redis.call('HDEL', r.key, 'body', 'content_type', 'headers') end
  drop(r)
  return 'outcome ' .. r.id .. ' ' .. r.service .. ' ' .. o.status .. ' ' .. (o.reason ~= '' and o.reason or '-') ..
    ' ' .. int(NOW - r.created) .. ' ' .. int(claimed and NOW - claimed or 0) .. ' ' .. int(r.attempt)
end

-- lapse takes r, whose entry has the fields f, away from a worker that fell
-- silent: a copy with the next attempt is added before the old entry goes, so
-- that workers only ever read new entries. Returns a line for the report.
local function lapse(r, f)
  if r.attempt >= r.max then
    claim(r)
    return finish(r, { status = 'failed', reason = 'max_attempts', code = 'lease_lapsed',
      message = 'The worker of the last attempt fell silent.' })
  end
  local old = { entry = r.entry, service = r.service }
  next_attempt(r)
  enqueue(r, f.content_type or '', f.traceparent or '', f.headers or '', f.body or '')
  redis.call('HSET', r.key, 'status', 'queued', 'attempt', int(r.attempt), 'entry', r.entry)
  drop(old)
  count('a', r.service, 1)
  schedule(r)
  wake(r)
  return 'lapse ' .. r.id .. ' ' .. r.service
end

-- view is what a reader sees of a record: see parseView in view.go.
-- inline is the largest reply body that is returned; owed shows a record that
-- is kept only for a callback.
local FIELDS = { 'service', 'plan', 'tenant', 'status', 'attempt', 'entry', 'started', 'worker', 'seq',
  'finished', 'reason', 'code', 'message', 'rtype', 'rstatus', 'callback', 'trace', 'retry_of', 'release' }
local function view(id, inline, owed)
  local r = load(id)
  if not r or (gone(r) and not owed) then return nil end
  local key = r.key
  local v = redis.call('HMGET', key, unpack(FIELDS))
  if r.status == 'queued' and claim(r) then
    v[4], v[7], v[8] = 'running', int(r.started), r.worker
  end
  local size = redis.call('HSTRLEN', key, 'reply')
  v[#FIELDS + 1] = int(size)
  v[#FIELDS + 2] = size > 0 and size <= inline and redis.call('HGET', key, 'reply') or ''
  v[#FIELDS + 3] = int(NOW)
  for i = 1, #FIELDS do v[i] = v[i] or '' end
  return v
end
