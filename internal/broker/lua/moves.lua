-- moves.lua knows the moves of a request that several verbs share: claim, enqueue, park,
-- wake.

-- What a script does to one key for each of many requests is gathered, and done by
-- conclude: to call a command costs as much as most commands do.
local gathered, sums = {}, {}

-- later calls a command that takes any number of arguments behind its key, or behind
-- its key and group.
local function later(command, key, group, ...)
  local name = command .. key
  local list = gathered[name]
  if list and #list > 500 then -- not all that unpack can hold
    try(unpack(list))
    list = nil
  end
  if not list then
    list = group and { command, key, group } or { command, key }
    gathered[name] = list
    gathered[#gathered + 1] = name
  end
  for i = 1, select('#', ...) do list[#list + 1] = (select(i, ...)) end
end

-- sum is HINCRBY, later.
local function sum(key, field, by)
  sums[key] = sums[key] or {}
  sums[key][field] = (sums[key][field] or 0) + by
end

-- gone tells whether a record is kept only for a callback that is still owed.
local function gone(r) return r.finished and NOW >= r.finished + r.retention end

-- claim reads off the pending list who holds the entry since when, and
-- remembers it in r. Nothing is written: claiming costs no command. What a
-- gateway holds for a worker that it has yet to find is nobody's, see entrust.lua.
local function claim(r)
  if r.via and not r.started and not r.finished and r.how ~= 'hit' then -- what it shares is claimed
    local run = load(r.via)
    if run and claim(run) then r.started, r.worker = math.max(run.started, r.created), run.worker end
  end
  if r.started or not r.entry then return r.started end
  local p = redis.pcall('XPENDING', queue_key(r.service), 'workers', r.entry, r.entry, 1)
  if p.err or not p[1] or string.sub(p[1][2], 1, 5) == 'pull:' then return nil end
  r.worker, r.started = p[1][2], math.max(NOW - p[1][3], stream_ms(r.entry)) -- idle times are rounded
  return r.started
end

-- begun tells whether r was claimed by an instant. A request has a second attempt only
-- after a first that was; what it shares may have had attempts that were over before r
-- came.
local function begun(r, by)
  if r.started and r.started <= by then return true end
  if r.attempt == 1 or not r.via then return r.attempt > 1 end
  if r.attempt > MAX_HISTORY then return true end -- nobody knows any more
  for line in string.gmatch(redis.call('HGET', record_key(r.via), 'history') or '', '[^\n]+') do
    local started, ended = string.match(line, '^%d+\t(%d+)\t(%d+)\t')
    if started and tonumber(started) <= by and tonumber(ended) > r.created then return true end
  end
  return false
end

-- clock tells which clock of r runs out first by what is known of its claim, and
-- when. A claim after the start timeout does not stop that clock: it ran out
-- before, only nobody looked.
local function clock(r)
  local at, reason = r.deadline, 'total'
  if r.release then return at, reason end
  local start = r.created + r.start
  if r.start > 0 and start < at and not begun(r, start) then at, reason = start, 'start' end
  if r.run > 0 and r.started and r.started + r.run < at then at, reason = r.started + r.run, 'run' end
  if r.legs and r.stall > 0 and r.latest + r.stall < at then at, reason = r.latest + r.stall, 'stall' end
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
  if r.run > 0 and (r.entry or r.via) and not r.started then
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

local REPLIES = P .. 'replies'

-- add_entry puts a work entry on the stream of a service, and returns its ID. All it
-- takes is text.
local function add_entry(stream, service, id, token, attempt, deadline, lease, content_type, traceparent, headers, body)
  return redis.call('XADD', stream, '*', 'id', id, 'token', token, 'reply_to', REPLIES,
    'service', service, 'attempt', attempt, 'deadline', deadline, 'lease', lease, 'content_type', content_type,
    'traceparent', traceparent, 'headers', headers, 'body', body)
end

-- enqueue adds the entry for the present attempt. c has what the worker gets:
-- content_type, traceparent, headers, body.
local function enqueue(r, c)
  r.entry = add_entry(queue_key(r.service), r.service, id_of(r.id), token(r), int(r.attempt), int(r.deadline), int(r.lease), c.content_type or '',
    c.traceparent or '', c.headers or '', c.body or '')
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
local function park(r, c)
  c = c or content(r)
  if c then
    redis.call('HSET', r.key, 'body', c.body or '', 'content_type', c.content_type or '', 'headers', c.headers or '')
  end
end

-- body_key is the record that has the body of r while it is not on the stream.
local function body_key(r) return r.via and record_key(r.via) or r.key end

-- parked reads what enqueue needs from the record.
local function parked(r)
  local v = redis.call('HMGET', body_key(r), 'content_type', 'trace', 'headers', 'body')
  return { content_type = v[1] or '', traceparent = v[2] or '', headers = v[3] or '', body = v[4] or '' }
end

-- remains reads what the dead letter r was to enqueue, or nil where that is gone. While
-- what it shared goes on for others, the body is in the entry of that.
local function remains(r)
  if redis.call('HEXISTS', body_key(r), 'body') == 1 then return parked(r) end
  local run = r.via and load(r.via)
  return run and content(run)
end

-- drop takes the entry off the stream. XACK comes first: a deleted entry that
-- is still pending would be handed out empty.
local function drop(r)
  if not r.entry then return end
  redis.pcall('XACK', queue_key(r.service), 'workers', r.entry)
  redis.call('XDEL', queue_key(r.service), r.entry)
end

-- drop_later is drop, for what nobody looks for before conclude.
local function drop_later(r)
  if not r.entry then return end
  later('XACK', queue_key(r.service), 'workers', r.entry)
  later('XDEL', queue_key(r.service), nil, r.entry)
end

-- set_aside keeps an entry of a stream that can't be understood, with its cause, for
-- somebody to look at: of a day the latest hundred.
local function set_aside(entry, cause, f)
  local key = P .. 'aside'
  redis.call('LPUSH', key, entry .. ' ' .. cause .. ' ' .. string.sub(f.token or '', 1, 120) .. ' ' .. string.sub(f.body or '', 1, 512))
  redis.call('LTRIM', key, 0, MAX_ASIDE - 1)
  redis.call('PEXPIRE', key, 86400000)
end

-- disown takes an entry off its stream that no open request has, and returns what it
-- is and of which request: an orphan, e.g. back after a failover, or garbage, which no
-- gateway wrote. f has its fields, nil where somebody deleted it. Of garbage no field
-- goes on: it may hold anything.
local function disown(found, f)
  drop(found)
  local name = f and named(f.token)
  if name or not f then return 'orphan', name and id_of(name) or '-' end
  set_aside(found.entry, 'entry', f)
  return 'garbage', '-'
end

-- following is the smallest stream ID above id: exclusive ranges are not
-- understood everywhere.
local function following(id)
  local ms, number = string.match(id, '^(%d+)-?(%d*)$')
  return ms .. '-' .. int(tonumber(number ~= '' and number or 0) + 1)
end

-- last_delivered is the latest entry of a stream that a worker was given, nil
-- where the group is missing. What comes after it, nobody has claimed.
local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then return nil end
  for i = 1, #groups do
    local g, flat = {}, groups[i]
    for j = 1, #flat, 2 do g[flat[j]] = flat[j + 1] end
    if g.name == 'workers' then return g['last-delivered-id'] end
  end
end

-- Wake-ups are gathered and published once a gateway by conclude: IDs, each behind a
-- space. A gateway that registered with a + before its name gets, instead of the ID
-- alone, what told says of an outcome, and behind it the reply. They are kept as the
-- texts that one has in hand: each that is made of them would be hashed, to its last byte.
local wakes = {}
local function wake_for(id, waiters, outcome, reply)
  for gateway in string.gmatch(waiters or '', '%S+') do
    local list = wakes[gateway] or {}
    wakes[gateway] = list
    if outcome and string.byte(gateway) == 43 then
      list[#list + 1] = outcome
      list[#list + 1] = reply
    else
      list[#list + 1] = ' ' .. id
    end
  end
end

-- wake tells who waits for r, or for what it is a part of.
local function wake(r, outcome, reply)
  wake_for(r.id, r.waiters, outcome, reply)
  for id in string.gmatch(r.parents or '', '%S+') do wake_for(id, redis.call('HGET', record_key(id), 'waiters')) end
end

-- began has a scatter run from when the first of its legs does, for good: a leg
-- may go back to where it waits.
local function began(r)
  for id in string.gmatch(r.started and not r.content and r.parents or '', '%S+') do
    local whole = load(id)
    if whole and not TERMINAL[whole.status] and whole.status ~= 'running' then
      redis.call('HSET', whole.key, 'status', 'running', 'started', int(r.started))
      wake(whole)
    end
  end
end

-- next_attempt makes room for another try: the old token is stale from here on.
-- code and message say how the attempt that is over ended.
local function next_attempt(r, code, message)
  local function plain(text, most) return (string.gsub(string.sub(text, 1, most), '%c', ' ')) end
  local history = { table.concat({ int(r.attempt), r.started and int(r.started) or '', int(NOW),
    plain(r.worker or '', 128), plain(code, MAX_CODE), plain(message, 256) }, '\t') }
  for earlier in string.gmatch(redis.call('HGET', r.key, 'history') or '', '[^\n]+') do
    if #history < MAX_HISTORY then history[#history + 1] = earlier end
  end
  redis.call('HSET', r.key, 'history', table.concat(history, '\n'))
  began(r)
  r.attempt = r.attempt + 1
  r.started, r.recorded, r.worker, r.wseq, r.release = nil, false, nil, 0, nil
  redis.call('HDEL', r.key, 'started', 'worker', 'wseq', 'release', 'place', 'acked')
  redis.call('HINCRBY', P .. 'counts', 'r:' .. r.service, 1)
end

-- append numbers an event of r and keeps it. Returns how many are kept, and the
-- bytes of them.
local function append(r, line)
  r.seq = r.seq + 1
  local n = redis.call('RPUSH', events_key(r.id), line)
  redis.call('HSET', r.key, 'seq', int(r.seq))
  return n, redis.call('HINCRBY', r.key, 'event_bytes', #line)
end

-- reply_size and reply_of read the reply of what is named so.
local function reply_size(name)
  local size = redis.call('HSTRLEN', record_key(name), 'reply')
  return size > 0 and size or redis.call('STRLEN', reply_key(name))
end
local function reply_of(name)
  local short = redis.call('HGET', record_key(name), 'reply')
  return short or redis.call('GET', reply_key(name)) or ''
end

-- A callback that is to be told of later, or by who was handed it, is a member of due:
-- "callback id type number attempt".
local CALLBACK = 'callback '

-- owes counts by callbacks more that are owed to r, and by what it shares. Returns how
-- many are.
local function owes(r, by)
  if r.via and redis.call('EXISTS', record_key(r.via)) == 1 then redis.call('HINCRBY', record_key(r.via), 'owed', by) end
  return redis.call('HINCRBY', r.key, 'owed', by)
end

-- owe stores the intent to tell the client about an event. An outcome is not to hang on it.
local function owe(r, kind, number)
  try('XADD', P .. 'callbacks', '*', 'id', r.id, 'type', kind, 'number', int(number), 'attempt', '1')
  owes(r, 1)
end

-- binding is the key that binds the idempotency key of r, or nil where it has
-- none or the key means a newer request by now: a record that is kept for a
-- callback outlives its binding.
local function binding(r)
  local key = r.idem and P .. 'idempotency:' .. r.idem
  local bound = key and try('GET', key)
  if type(bound) == 'string' and string.sub(bound, 1, #r.id) == r.id then return key end
end

-- outlast keeps a shared run, once it is over, until the last of those who refer to
-- it is forgotten: as expire does, with the callbacks of them all.
local function outlast(name, at)
  local key = record_key(name)
  local v = redis.call('HMGET', key, 'nonce', 'finished', 'outlast', 'owed')
  if not v[1] then return end
  at = math.max(at, tonumber(v[3] or 0))
  redis.call('HSET', key, 'outlast', int(at))
  if v[2] then
    if tonumber(v[4] or 0) > 0 then at = math.max(at, NOW + CALLBACK_WINDOW) end
    redis.call('PEXPIREAT', key, int(at))
    redis.call('PEXPIREAT', events_key(name), int(at))
    redis.call('PEXPIREAT', reply_key(name), int(at))
  end
end

-- expire sets when the record is forgotten, with all that belongs to it: its retention
-- after the outcome, or later while a callback is owed.
local function expire(r)
  local over = r.finished + r.retention
  local at = over
  local owed = r.callback and tonumber(redis.call('HGET', r.key, 'owed') or 0) or 0
  if owed > 0 then at = math.max(at, r.finished + CALLBACK_WINDOW) end
  redis.call('PEXPIREAT', r.key, int(at))
  if r.seq > 0 then redis.call('PEXPIREAT', events_key(r.id), int(at)) end
  if not r.short then redis.call('PEXPIREAT', reply_key(r.id), int(at)) end
  for leg = 1, r.legs or 0 do
    redis.call('PEXPIREAT', record_key(r.id .. '/' .. leg), int(at))
    redis.call('PEXPIREAT', reply_key(r.id .. '/' .. leg), int(at))
  end
  if r.via then outlast(r.via, over) end
  local bound = binding(r)
  if bound then redis.call('PEXPIREAT', bound, int(over)) end
end

-- Counters of a service: a(dded to the stream), f(inished after a claim), b(usy ms),
-- r(etried), e(nded in failure).
local function count(field, service, by) return redis.call('HINCRBY', P .. 'counts', field .. ':' .. service, int(by)) end

-- kept tells the table how many records of a status are forgotten by when, in
-- steps of five minutes: a bounded index instead of a scan.
local function kept(r) return P .. 'kept', r.status .. ':' .. int(math.ceil((r.finished + r.retention) / 300000)) end
