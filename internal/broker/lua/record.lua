-- record.lua knows the record of a request: how it is kept, and read.
--
-- It is a hash at <prefix>request:<id>. It never expires while the request is
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
--
-- Of most requests that stand on their stream the next thing that is to be written is the
-- reply. So the record of those is brief, from the first or from when they come there out of
-- the line: one string at the same key, which takes 112 bytes where the hash took 160, and is
-- read and written by one command of which many may be one call. It has its lines in this
-- order:
--
--   service nonce entry plan             of what is queued, in its first attempt
--   service nonce entry plan finished started         of what has succeeded
--   name value                           for each other field; none has a line break
--
-- and behind an empty line the reply, where that has up to WITHIN bytes. What tells more
-- than that has a hash: unfold makes it.

-- policy reads what holds for a request while it waits.
local function policy(r, text)
  local weight, limit, gate, flow
  if text then weight, limit, gate, flow = string.match(text, '^(%d+) (%d+) (%S+) (.*)$') end
  r.weight, r.gate_limit, r.flow = tonumber(weight or WEIGHT), tonumber(limit or 0), flow or ''
  r.gate = gate and gate ~= '-' and gate or nil
end

local WITHIN = 2048 -- bytes of a reply that are kept in a brief record: each of them passes once more through Lua
local ALSO = { 'tenant', 'trace', 'callback', 'idem', 'tags', 'waiters', 'policy', 'place' } -- what may be in one that is queued

-- brief is the first line of the record of what is queued.
local function brief(service, nonce, entry, plan) return service .. ' ' .. nonce .. ' ' .. entry .. ' ' .. plan end

-- lines are those behind it, of the fields f.
local function lines(f)
  local text = ''
  for i = 1, #ALSO do
    local value = f[ALSO[i]]
    if value and value ~= '' then text = text .. '\n' .. ALSO[i] .. ' ' .. value end
  end
  return text
end

-- fields_of reads a brief record, nil where it is none.
local function fields_of(text)
  local service, nonce, entry, plan, finished, started, at =
    string.match(text, '^(%S+) (%x+) (%S+) (%d+ %d+ %d+ %d+ %d+ %d+ %d+ %S+ %d+ %d+) ?(%d*) ?(%d*)()')
  if not service then return nil end
  local done = finished ~= ''
  local f = { service = service, nonce = nonce, entry = entry, plan = plan, attempt = '1', status = done and 'succeeded' or 'queued',
    finished = done and finished, started = done and started, worker = false, rtype = false, reply = false }
  while true do
    local name, value, next = string.match(text, '^\n(%a+) ([^\n]*)()', at)
    if not name then break end
    f[name], at = value, next
  end
  if string.sub(text, at, at + 1) == '\n\n' then f.reply = string.sub(text, at + 2) end
  return f
end

-- pick has those of the fields f that names names, false for each that there is not.
local function pick(f, names)
  local v = {}
  for i = 1, #names do v[i] = f[names[i]] or false end
  return v
end

-- read reads fields of a record by their names, false where it has none of that name.
-- Returns also all that it has, where it is brief.
local function read(key, names)
  local text = redis.call('MGET', key)[1] -- which takes any hash for nothing
  if not text then return redis.call('HMGET', key, unpack(names)) end
  local f = fields_of(text) or {}
  return pick(f, names), f
end

local MOVED_BY = { 'service', 'plan', 'status', 'attempt', 'entry', 'started', 'worker', 'wseq', 'seq', 'waiters', 'nonce', 'idem', 'release',
  'callback', 'finished', 'policy', 'tenant', 'parents', 'scatter', 'shared', 'sharing', 'batch', 'place', 'acked' }

-- peek reads what the moves need, or returns nil; also where something else than a record
-- of ours stands in its place: a script that this stopped would be stopped again and again.
-- What it returns is to be unfolded before its record is written.
local function peek(id)
  local key = record_key(id)
  local fine, v, f = pcall(read, key, MOVED_BY)
  if not fine and not hopeless(v) then error(v) end
  if not fine or not v[1] or not v[2] then return nil end
  local r = { id = id, key = key, brief = f, service = v[1], status = v[3], attempt = tonumber(v[4]),
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

-- unfold makes a hash of the record of r, where it is brief. That it deletes first, it may
-- also where Redis is full.
local function unfold(r)
  local f, flat = r and r.brief, {}
  if not f then return r end
  r.brief = nil
  local left = redis.call('PTTL', r.key)
  redis.call('DEL', r.key)
  if #(f.reply or '') > SHORT then
    redis.call('SET', reply_key(r.id), f.reply)
    if left >= 0 then redis.call('PEXPIRE', reply_key(r.id), int(left)) end
    f.reply = nil
  end
  for name, value in pairs(f) do
    if value and (value ~= '' or name == 'rtype') then flat[#flat + 1] = name; flat[#flat + 1] = value end
  end
  redis.call('HSET', r.key, unpack(flat))
  if left >= 0 then redis.call('PEXPIRE', r.key, int(left)) end
  return r
end

-- load is peek for what is to be moved.
local function load(id) return unfold(peek(id)) end

-- await writes which gateways are woken about the open request r, '' for none.
local function await(r, waiters)
  local f = r.brief
  if not f then
    if waiters ~= '' then redis.call('HSET', r.key, 'waiters', waiters) else redis.call('HDEL', r.key, 'waiters') end
    return
  end
  f.waiters = waiters
  redis.call('SET', r.key, brief(f.service, f.nonce, f.entry, f.plan) .. lines(f))
end
