-- prelude.lua stands before every script of this room; before those that move
-- requests then line.lua, share.lua, dead.lua and outcome.lua. It knows the record of
-- a request and the moves that several verbs share: claim, enqueue, park, wake.
--
-- ARGV[1] is always the prefix of the partition, e.g. "cc:{0}:"; every key
-- below carries that hash tag, so one script stays in one slot. KEYS[1] routes.
--
-- The record, a hash at <prefix>request:<id>. It never expires while the request is
-- open, nor does what belongs to it: the outcome says when they are forgotten, see
-- expire. With a nonce alone it is what forget leaves. Values of up to 64 bytes keep it in
-- Redis' compact encoding:
--
--   service tenant nonce trace callback retry_of idem tags set by submit or redrive (idem by submit alone)
--   plan      "created timeout start run lease max retention events ordinal
--             backoff" in ms; events is a subset of the letters sftcp, or "-";
--             an m in it says that no reply is kept, a d that it is in clocks,
--             see clocks.lua
--   batch     "id number" of the batch that it is an item of, if any
--   policy    "weight limit gate flow", only where one holds for the request:
--             its weight in the line, how many requests its gate lets in at
--             once, the gate or "-", and whose share of the line it takes
--   status attempt entry                                   where it stands
--   started worker wseq                                    of this attempt
--   acked     last sign of life of a worker that acked its entry itself
--   release                                                while scheduled
--   place     its place in the line                        where its service has a limit
--   delay     in ms, that timeout and start have on top        where it has one
--   history   the attempts before this one, a line each    after a retry
--   seq       number of the latest progress or partial reply
--   event_bytes   of the progress and partial replies that are kept
--   waiters   gateways to wake, separated by spaces, each with a + before it that is
--             told of outcomes, see told
--   owed      callbacks not yet delivered; of a shared run, of all who share it
--   finished reason code message rtype rstatus rheaders reply   the outcome; a reply of
--             more than 64 bytes is at reply:<id>
--   retried_as                                             the request that was made of it
--   body content_type headers                              while it waits, or as a dead letter;
--             of who shared a run they are in that, see body_key
--
-- A scatter is a record with the service "*" and no entry anywhere; each of its
-- legs is one at request:<id>/<leg>, which goes the way of any request. Besides:
--
--   scatter   "legs min stall partial succeeded ended latest bytes" of the whole: how many
--             legs, how many must succeed, ms without an answer after which it is
--             over, whether less will do (1); how many succeeded, how many ended, when
--             the latest did, and the bytes of all replies
--   parents   of a leg: the ID of the whole, which is told of all that happens
--
-- Requests of one content may share a run, see share.lua: one more record, at
-- request:<id of the first>/0, which goes the way of any request. Besides:
--
--   sharing   of the run: "content ttl", the hash that it answers for and the ms for
--             which its reply is cached; its parents are all who wait for it, and
--             sharers is how many records refer to it
--   mourned   of the run: it keeps its body after its end, for a dead letter that shared it
--   outlast   of the run: ms until which a record refers to it, but for owed callbacks
--   shared    of a request: "run how since": the run, miss, shared or hit, and of a
--             hit the ms at which its reply came. Its entry is the run's at its end
--
-- A request is either on the stream or waits in the zset waiting:<service>, see
-- admit. Its score there is its place in the line, or from INSTANT on the
-- millisecond until which it is not in the line, or GATED.
local P = ARGV[1]

local WEEK = 604800000       -- longest that a worker may have something wait or cached; what nobody goes on with is kept so long
local CALLBACK_WINDOW = 172800000 -- longest a record outlives its retention for an owed callback
local MAX_MESSAGE = 1024     -- bytes of a worker's error message that are kept
local MAX_CODE = 64          -- bytes of a worker's error code that are kept
local MAX_REPLY_HEADERS = 8192 -- bytes of the headers of a reply, as JSON; more are dropped
local SHORT = 64            -- bytes of a reply that are kept in the record
local TOLD = 4096           -- bytes of a reply, with its headers, that are told with a wake-up
local MAX_HISTORY = 20       -- attempts that are remembered
local MAX_ASIDE = 100        -- entries kept that nobody understands
local INSTANT = 9e11         -- scores from here on are instants (in ms, since 1998), below are places in the line
local GATED = 9007199254740991 -- the score of what waits for its gate (2^53 - 1)
local MOVED = 1048576        -- bytes of bodies that one script moves, about
local FIRST_LIMIT = 64       -- entries on a stream that has a line, until a steward has looked
local WEIGHT = 4             -- in the line, of a request with normal priority
local MAX_WAITERS = 64       -- gateways; the oldest is dropped, and re-reads by itself

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- even_when_full lets a script that ends work store its outcome although Redis
-- is at maxmemory: Redis refuses a growing command only as the first write of a
-- script, and a DEL never grows. Admission keeps a fifth of the memory free for
-- this.
local function even_when_full() redis.call('DEL', P .. 'none') end

-- unless_full ends a script that takes work away before its first write where Redis
-- is at maxmemory: no worker can say that it lives then. An RPUSHX to nothing would
-- grow it, and does nothing.
local function unless_full() redis.call('RPUSHX', P .. 'none', '') end

-- hopeless is the text of an error that comes each time, since what somebody else wrote
-- stands in the place of something of ours; nil for any other, which may pass.
local function hopeless(said)
  local text = type(said) == 'table' and said.err or tostring(said)
  for _, of in ipairs({ 'WRONGTYPE', 'not an integer', 'attempt to ', 'bad argument' }) do
    if string.find(text, of, 1, true) then return text end
  end
end

-- try calls a command that nothing else is to hang on where that is hopeless.
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and not hopeless(answer) then error(answer) end
  return answer
end

-- risk calls a function that nothing else is to hang on in that case.
local function risk(f, ...)
  local fine, said = pcall(f, ...)
  if not fine and not hopeless(said) then error(said) end
end

-- int writes a whole number. To write one costs as much as a command, and most of the
-- large ones are written more than once: their text is kept. (Small ones would make an
-- array of the table in an embedded Redis.)
local ints = {}
local function int(n)
  local text = ints[n]
  if not text then
    text = string.format('%d', n)
    if n > 1e9 then ints[n] = text end
  end
  return text
end
local function stream_ms(id) return tonumber(string.match(id, '^(%d+)')) end
local function record_key(id) return P .. 'request:' .. id end
-- What runs is named by its ID, a leg of a scatter by "<id>/<leg>": in its token,
-- in due, in its line and gate. Its worker is told the ID alone.
local function id_of(name) return string.sub(name, 1, 36) end
local function leg_of(name) return string.match(name, '/(%d+)$') end
-- named reads a token: what it names, the attempt, the nonce.
local function named(token)
  local name, attempt, nonce = string.match(token or '', '^([%x%-]+/?%d*)%.(%d+)%.(%x+)$')
  if name and (#name == 36 or string.find(name, '^[%x%-]+/%d+$') and #string.match(name, '^[^/]+') == 36) then return name, attempt, nonce end
end
local function events_key(id) return P .. 'events:' .. id end
local function reply_key(id) return P .. 'reply:' .. id end
local function queue_key(service) return P .. 'queue:' .. service end
local function waiting_key(service) return P .. 'waiting:' .. service end
local function gate_key(r) return P .. 'gate:' .. r.service .. ':' .. r.gate end
-- listing_key is the index of a tenant's requests by created, see list.lua:
-- "open", or an outcome.
local function listing_key(status, tenant) return P .. 'listing:' .. status .. ':' .. (tenant or '') end

local TERMINAL = { succeeded = 's', failed = 'f', timed_out = 't', canceled = 'c' }

-- policy reads what holds for a request while it waits.
local function policy(r, text)
  local weight, limit, gate, flow
  if text then weight, limit, gate, flow = string.match(text, '^(%d+) (%d+) (%S+) (.*)$') end
  r.weight, r.gate_limit, r.flow = tonumber(weight or WEIGHT), tonumber(limit or 0), flow or ''
  r.gate = gate and gate ~= '-' and gate or nil
end

-- load reads what the moves need, or returns nil; also where something else than a record
-- of ours stands in its place: a script that this stopped would be stopped again and again.
local function load(id)
  local key = record_key(id)
  local v = try('HMGET', key, 'service', 'plan', 'status', 'attempt', 'entry',
    'started', 'worker', 'wseq', 'seq', 'waiters', 'nonce', 'idem', 'release', 'callback', 'finished', 'policy', 'tenant', 'parents', 'scatter',
    'shared', 'sharing', 'batch', 'place', 'acked')
  if v.err or not v[1] or not v[2] then return nil end
  local r = { id = id, key = key, service = v[1], status = v[3], attempt = tonumber(v[4]),
    entry = v[5], started = tonumber(v[6] or nil), worker = v[7], wseq = tonumber(v[8] or 0),
    seq = tonumber(v[9] or 0), waiters = v[10], nonce = v[11], idem = v[12],
    release = tonumber(v[13] or nil), callback = v[14], finished = tonumber(v[15] or nil), tenant = v[17] }
  local created, timeout, start, run, lease, max, retention, events, ordinal, backoff =
    string.match(v[2], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%d+)$')
  if not created then return nil end
  r.created, r.start, r.run, r.lease = tonumber(created), tonumber(start), tonumber(run), tonumber(lease)
  r.deadline = r.created + tonumber(timeout)
  r.max, r.retention, r.events, r.backoff = tonumber(max), tonumber(retention), events, tonumber(backoff)
  r.ordinal = tonumber(ordinal)
  r.recorded = r.started ~= nil
  policy(r, v[16])
  r.parents = v[18] or nil
  if v[19] then
    local legs, min, stall, partial, succeeded, ended, latest, bytes = string.match(v[19], '^(%d+) (%d+) (%d+) (%d) (%d+) (%d+) (%d+) (%d+)$')
    r.legs, r.min, r.stall, r.partial = tonumber(legs), tonumber(min), tonumber(stall), partial == '1'
    r.succeeded, r.ended, r.latest = tonumber(succeeded), tonumber(ended), tonumber(latest)
    r.bytes = tonumber(bytes)
  end
  r.batch, r.sequenced, r.placed, r.acked = v[22] or nil, v[8], v[23], v[24]
  if v[21] then
    r.content, r.cache = string.match(v[21], '^(%x+) (%d+)$')
    r.cache = tonumber(r.cache)
  end
  if v[20] then
    r.via, r.how = string.match(v[20], '^(%S+) (%S+)')
    if not r.finished then
      local run = redis.call('HMGET', record_key(r.via), 'seq', 'attempt')
      r.seq, r.attempt = tonumber(run[1] or 0), tonumber(run[2] or r.attempt)
    end
  end
  return r
end

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

-- Wake-ups are gathered and published once a gateway by conclude: IDs separated by
-- spaces. A gateway that registered with a + before its name gets, instead of the ID
-- alone, what told says of an outcome.
local wakes = {}
local function wake_for(id, waiters, outcome)
  for gateway in string.gmatch(waiters or '', '%S+') do
    local list = wakes[gateway] or {}
    wakes[gateway] = list
    list[#list + 1] = outcome and string.byte(gateway) == 43 and outcome or id
  end
end

-- wake tells who waits for r, or for what it is a part of.
local function wake(r, outcome)
  wake_for(r.id, r.waiters, outcome)
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
  redis.call('HDEL', r.key, 'started', 'worker', 'wseq', 'release', 'acked')
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
