local P = ARGV[1]

local CALLBACK_WINDOW = 172800000 -- longest a record outlives its retention for an owed callback
local MAX_MESSAGE = 1024     -- bytes of a worker's error message that are kept
local MAX_CODE = 64          -- bytes of a worker's error code that are kept
local MAX_REPLY_HEADERS = 8192 -- bytes of the headers of a reply, as JSON; more are dropped
local SHORT = 64            -- bytes of a reply that are kept in a record that is a hash
local TOLD = 4096           -- bytes of a reply, with its headers, that are told with a wake-up
local INSTANT = 9e11         -- scores from here on are instants (in ms, since 1998), below are places in the line
local WEIGHT = 4             -- in the line, of a request with normal priority
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
local function even_when_full() redis.call('DEL', P .. 'none') end
local function hopeless(said)
  local text = type(said) == 'table' and said.err or tostring(said)
  for _, of in ipairs({ 'WRONGTYPE', 'not an integer', 'attempt to ', 'bad argument' }) do
    if string.find(text, of, 1, true) then return text end
  end
end
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and not hopeless(answer) then error(answer) end
  return answer
end
local function risk(f, ...)
  local fine, said = pcall(f, ...)
  if not fine and not hopeless(said) then error(said) end
end
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
local function reply_key(id) return P .. 'reply:' .. id end
local function queue_key(service) return P .. 'queue:' .. service end
local function waiting_key(service) return P .. 'waiting:' .. service end
local function listing_key(status, tenant) return P .. 'listing:' .. status .. ':' .. (tenant or '') end

local TERMINAL = { succeeded = 's', failed = 'f', timed_out = 't', canceled = 'c' }
local function policy(r, text)
  local weight, limit, gate, flow
  if text then weight, limit, gate, flow = string.match(text, '^(%d+) (%d+) (%S+) (.*)$') end
  r.weight, r.gate_limit, r.flow = tonumber(weight or WEIGHT), tonumber(limit or 0), flow or ''
  r.gate = gate and gate ~= '-' and gate or nil
end

local WITHIN = 2048 -- bytes of a reply that are kept in a brief record: each of them passes once more through Lua
local function brief(service, nonce, entry, plan) return service .. ' ' .. nonce .. ' ' .. entry .. ' ' .. plan end
local function fields_of(text)
  local service, nonce, entry, plan, finished, started, at =
    string.match(text, '^(%S+) (%x+) (%S+) (%d+ %d+ %d+ %d+ %d+ %d+ %d+ %S+ %d+ %d+) ?(%d*) ?(%d*)()')
  if not service then return nil end
  local over = finished ~= ''
  local f = { service = service, nonce = nonce, entry = entry, plan = plan, attempt = '1', status = over and 'succeeded' or 'queued',
    finished = over and finished, started = over and started, worker = false, rtype = false, reply = false }
  while true do
    local name, value, next = string.match(text, '^\n(%a+) ([^\n]*)()', at)
    if not name then break end
    f[name], at = value, next
  end
  if string.sub(text, at, at + 1) == '\n\n' then f.reply = string.sub(text, at + 2) end
  return f
end
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
local gathered, sums = {}, {}
local function sum(key, field, by)
  sums[key] = sums[key] or {}
  sums[key][field] = (sums[key][field] or 0) + by
end
local wakes = {}
local function wake_for(id, waiters, outcome)
  for gateway in string.gmatch(waiters or '', '%S+') do
    local list = wakes[gateway] or {}
    wakes[gateway] = list
    list[#list + 1] = outcome and string.byte(gateway) == 43 and outcome or id
  end
end
local function binding(r)
  local key = r.idem and P .. 'idempotency:' .. r.idem
  local bound = key and try('GET', key)
  if type(bound) == 'string' and string.sub(bound, 1, #r.id) == r.id then return key end
end
local function kept(r) return P .. 'kept', r.status .. ':' .. int(math.ceil((r.finished + r.retention) / 300000)) end
local function limit_of(service) return tonumber(redis.call('HGET', P .. 'limits', service) or nil) end
local function line_key(service) return P .. 'line:' .. service end
local function in_line(service, n)
  return redis.call('ZRANGEBYSCORE', waiting_key(service), '-inf', '(' .. INSTANT, 'WITHSCORES', 'LIMIT', 0, n)
end
local function close_line(service)
  if redis.call('EXISTS', line_key(service)) == 1 and redis.call('XLEN', queue_key(service)) == 0 and #in_line(service, 1) == 0 then
    redis.call('DEL', line_key(service))
  end
end
local function places(r, n)
  local key = line_key(r.service)
  local served, last = unpack(redis.call('HMGET', key, 'served', 'last:' .. r.flow))
  local behind = math.max(tonumber(served or 0), tonumber(last or 0))
  redis.call('HSET', key, 'last:' .. r.flow, string.format('%.6f', behind + n / r.weight))
  return behind
end
local function place(r)
  if r.attempt == 1 then
    r.place = places(r, 1) + 1 / r.weight
  else
    r.place = tonumber(redis.call('HGET', line_key(r.service), 'served') or 0)
  end
  return r.place
end
local touched = {}
local function write_gathered()
  for i = 1, #gathered do try(unpack(gathered[gathered[i]])) end
  for key, fields in pairs(sums) do
    for field, by in pairs(fields) do try('HINCRBY', key, field, int(by)) end
  end
end

local function publish_wakes()
  for gateway, ids in pairs(wakes) do redis.call('PUBLISH', 'cc:wake:' .. gateway, table.concat(ids, ' ')) end
end
local function make_room(service, let_in)
  if limit_of(service) then let_in(service) else close_line(service) end -- the limit may go before the last that it let through
end
local function told(r, o, claimed)
  local reply = o.reply or ''
  if o.forgotten or not r.entry or not string.find(r.waiters or '', '+', 1, true) then return nil end
  if r.via or r.legs or r.parents or r.release or #reply + #(o.rheaders or '') > TOLD then return nil end
  local worker, code, message = claimed and r.worker or '', string.sub(o.code or '', 1, MAX_CODE), string.sub(o.message or '', 1, MAX_MESSAGE)
  local rtype, rheaders = o.rtype or '', o.rheaders or ''
  local function plain(text) return text and text ~= '' and text or '-' end
  return table.concat({ r.id .. ':' .. int(stream_ms(r.entry)), int(r.attempt), int(NOW), int(r.retention), claimed and int(claimed) or '-',
    int(r.seq), o.status, plain(o.rstatus), plain(o.reason), #worker, #code, #message, #rtype, #rheaders,
    #reply .. '\n' .. worker .. code .. message .. rtype .. rheaders .. reply }, ' ')
end

local ended = 0 -- outcomes that this script recorded
local function over(r, v, o, inline)
  for i = 1, 8 do v[19 + i] = o[i] or '' end
  local text, from = o[9], r.id
  if r.via and o[5] then
    from = r.via
    text = redis.call('HGET', record_key(from), 'reply')
  end
  local size = text and #text
  if not text then
    text = o[5] and redis.call('GETRANGE', reply_key(from), 0, inline) or '' -- a byte more than may be returned
    size = #text > inline and redis.call('STRLEN', reply_key(from)) or #text
  end
  if size > inline then text = '' end
  v[28], v[29] = int(size), text
end
even_when_full()
local replies = KEYS[1]
local most, budget, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[7])
local report, plain = {}, {}
local judged, verdicts = ARGV[8], {}
for i = 11, #ARGV, 7 do verdicts[ARGV[i]] = i end
local by_rule = ARGV[9] ~= '1'
local function wants_verdict(service)
  return judged ~= '' and (string.find(judged, ' ' .. service .. ' ', 1, true) or string.find(judged, ' * ', 1, true)) and true or false
end
local function content_type(text) return string.sub((string.gsub(text or '', '%c', '')), 1, 255) end
local function number(text)
  return text and #text <= 15 and string.match(text, '^%d+%.?%d*$') and tonumber(text) or nil
end
local function status_code(text)
  local code = number(text)
  return code and code >= 200 and code <= 599 and int(math.floor(code)) or ''
end
local made
local function others()
  if not made then made = (function() local WEEK = 604800000       -- longest that a worker may have something wait or cached; what nobody goes on with is kept so long
local MAX_HISTORY = 20       -- attempts that are remembered
local MAX_ASIDE = 100        -- entries kept that nobody understands
local GATED = 9007199254740991 -- the score of what waits for its gate (2^53 - 1)
local MOVED = 1048576        -- bytes of bodies that one script moves, about
local FIRST_LIMIT = 64       -- entries on a stream that has a line, until a steward has looked
local function id_of(name) return string.sub(name, 1, 36) end
local function leg_of(name) return string.match(name, '/(%d+)$') end
local function named(token)
  local name, attempt, nonce = string.match(token or '', '^([%x%-]+/?%d*)%.(%d+)%.(%x+)$')
  if name and (#name == 36 or string.find(name, '^[%x%-]+/%d+$') and #string.match(name, '^[^/]+') == 36) then return name, attempt, nonce end
end
local function events_key(id) return P .. 'events:' .. id end
local function gate_key(r) return P .. 'gate:' .. r.service .. ':' .. r.gate end
local function pick(f, names)
  local v = {}
  for i = 1, #names do v[i] = f[names[i]] or false end
  return v
end
local function read(key, names)
  local text = redis.call('MGET', key)[1] -- which takes any hash for nothing
  if not text then return redis.call('HMGET', key, unpack(names)) end
  local f = fields_of(text) or {}
  return pick(f, names), f, text
end

local MOVED_BY = { 'service', 'plan', 'status', 'attempt', 'entry', 'started', 'worker', 'wseq', 'seq', 'waiters', 'nonce', 'idem', 'release',
  'callback', 'finished', 'policy', 'tenant', 'parents', 'scatter', 'shared', 'sharing', 'batch', 'place', 'acked' }
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
local function load(id) return unfold(peek(id)) end
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
local function clock(r)
  local at, reason = r.deadline, 'total'
  if r.release then return at, reason end
  local start = r.created + r.start
  if r.start > 0 and start < at and not begun(r, start) then at, reason = start, 'start' end
  if r.run > 0 and r.started and r.started + r.run < at then at, reason = r.started + r.run, 'run' end
  if r.legs and r.stall > 0 and r.latest + r.stall < at then at, reason = r.latest + r.stall, 'stall' end
  return at, reason
end
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
local REPLIES = P .. 'replies'
local function add_entry(stream, service, id, token, attempt, deadline, lease, content_type, traceparent, headers, body)
  return redis.call('XADD', stream, '*', 'id', id, 'token', token, 'reply_to', REPLIES,
    'service', service, 'attempt', attempt, 'deadline', deadline, 'lease', lease, 'content_type', content_type,
    'traceparent', traceparent, 'headers', headers, 'body', body)
end
local function enqueue(r, c)
  r.entry = add_entry(queue_key(r.service), r.service, id_of(r.id), token(r), int(r.attempt), int(r.deadline), int(r.lease), c.content_type or '',
    c.traceparent or '', c.headers or '', c.body or '')
  r.status = 'queued'
end
local function content(r)
  local found = r.entry and redis.call('XRANGE', queue_key(r.service), r.entry, r.entry)[1]
  if not found then return nil end
  local f, flat = {}, found[2]
  for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
  return f
end
local function park(r, c)
  c = c or content(r)
  if c then
    redis.call('HSET', r.key, 'body', c.body or '', 'content_type', c.content_type or '', 'headers', c.headers or '')
  end
end
local function body_key(r) return r.via and record_key(r.via) or r.key end
local function parked(r)
  local v = redis.call('HMGET', body_key(r), 'content_type', 'trace', 'headers', 'body')
  return { content_type = v[1] or '', traceparent = v[2] or '', headers = v[3] or '', body = v[4] or '' }
end
local function drop(r)
  if not r.entry then return end
  redis.pcall('XACK', queue_key(r.service), 'workers', r.entry)
  redis.call('XDEL', queue_key(r.service), r.entry)
end
local function drop_later(r)
  if not r.entry then return end
  later('XACK', queue_key(r.service), 'workers', r.entry)
  later('XDEL', queue_key(r.service), nil, r.entry)
end
local function set_aside(entry, cause, f)
  local key = P .. 'aside'
  redis.call('LPUSH', key, entry .. ' ' .. cause .. ' ' .. string.sub(f.token or '', 1, 120) .. ' ' .. string.sub(f.body or '', 1, 512))
  redis.call('LTRIM', key, 0, MAX_ASIDE - 1)
  redis.call('PEXPIRE', key, 86400000)
end
local function wake(r, outcome)
  wake_for(r.id, r.waiters, outcome)
  for id in string.gmatch(r.parents or '', '%S+') do wake_for(id, redis.call('HGET', record_key(id), 'waiters')) end
end
local function began(r)
  for id in string.gmatch(r.started and not r.content and r.parents or '', '%S+') do
    local whole = load(id)
    if whole and not TERMINAL[whole.status] and whole.status ~= 'running' then
      redis.call('HSET', whole.key, 'status', 'running', 'started', int(r.started))
      wake(whole)
    end
  end
end
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
local function append(r, line)
  r.seq = r.seq + 1
  local n = redis.call('RPUSH', events_key(r.id), line)
  redis.call('HSET', r.key, 'seq', int(r.seq))
  return n, redis.call('HINCRBY', r.key, 'event_bytes', #line)
end
local function reply_size(name)
  local size = redis.call('HSTRLEN', record_key(name), 'reply')
  return size > 0 and size or redis.call('STRLEN', reply_key(name))
end
local function reply_of(name)
  local short = redis.call('HGET', record_key(name), 'reply')
  return short or redis.call('GET', reply_key(name)) or ''
end
local function owes(r, by)
  if r.via and redis.call('EXISTS', record_key(r.via)) == 1 then redis.call('HINCRBY', record_key(r.via), 'owed', by) end
  return redis.call('HINCRBY', r.key, 'owed', by)
end
local function owe(r, kind, number)
  try('XADD', P .. 'callbacks', '*', 'id', r.id, 'type', kind, 'number', int(number), 'attempt', '1')
  owes(r, 1)
end
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
local function count(field, service, by) return redis.call('HINCRBY', P .. 'counts', field .. ':' .. service, int(by)) end
local function reserve(service, n)
  if n > 0 then redis.call('HSET', line_key(service), 'last:', string.format('%.6f', n / WEIGHT)) end
end
local function open_line(r)
  if r.flow ~= '' and redis.call('HSETNX', P .. 'limits', 'shared:' .. r.service, 1) == 1 and
    redis.call('HSETNX', P .. 'limits', r.service, FIRST_LIMIT) == 1 then
    reserve(r.service, redis.call('XLEN', queue_key(r.service)))
  end
end
local function straight(service, limit, n)
  local room = limit - redis.call('XLEN', queue_key(service))
  if room <= 0 or #in_line(service, 1) > 0 then return 0 end
  return math.min(room, n)
end
local function serve(service, at)
  if at > tonumber(redis.call('HGET', line_key(service), 'served') or 0) then
    redis.call('HSET', line_key(service), 'served', string.format('%.6f', at))
  end
end
local function hold(r, c, score)
  if c then park(r, c) end
  r.entry, r.status = nil, r.release and 'scheduled' or 'queued'
  redis.call('ZADD', waiting_key(r.service), string.format('%.6f', score), r.id)
end
local function let_in(r)
  if not r.gate then return true end
  local rank = redis.call('ZRANK', gate_key(r), r.id)
  return not rank or rank < r.gate_limit
end
local function admit(r, c)
  if r.release and r.release <= NOW then r.release = nil end
  if not let_in(r) then return hold(r, c, GATED) end
  if r.release then return hold(r, c, r.release) end
  open_line(r)
  local limit = limit_of(r.service)
  if limit then
    local at = place(r)
    if straight(r.service, limit, 1) == 0 then return hold(r, c, at) end
    serve(r.service, at)
  end
  enqueue(r, c or parked(r))
  r.ordinal = count('a', r.service, 1)
end
local function record_place(r)
  redis.call('HSET', r.key, 'status', r.status, 'attempt', int(r.attempt))
  if r.place then redis.call('HSET', r.key, 'place', string.format('%.6f', r.place)) end
  if r.entry then
    redis.call('HSET', r.key, 'entry', r.entry)
    redis.call('HDEL', r.key, 'release', 'content_type', 'headers', 'body')
    redis.call('ZREM', waiting_key(r.service), r.id)
  else
    redis.call('HDEL', r.key, 'entry')
    if r.release then redis.call('HSET', r.key, 'release', int(r.release))
    else redis.call('HDEL', r.key, 'release') end
  end
  schedule(r)
  wake(r)
end
local function readmit(r, c)
  admit(r, c)
  record_place(r)
end
local function release(service)
  local limit = limit_of(service)
  local room = math.min(128, (limit or 128) - redis.call('XLEN', queue_key(service)))
  local all, moved, furthest = room, 0, 0
  while room > 0 and moved < MOVED do
    local next = in_line(service, math.min(room, 16))
    if #next == 0 then break end
    for i = 1, #next, 2 do
      local r = load(next[i])
      if r and not TERMINAL[r.status] then
        local c = parked(r)
        enqueue(r, c)
        count('a', service, 1)
        record_place(r)
        furthest = math.max(furthest, tonumber(next[i + 1]))
        moved, room = moved + #c.body, room - 1
      else
        redis.call('ZREM', waiting_key(service), next[i])
      end
      if moved >= MOVED then break end
    end
  end
  if furthest > 0 then serve(service, furthest) end
  close_line(service)
  return (moved >= MOVED or all == 128) and #in_line(service, 1) > 0
end
local function leave(r)
  if redis.call('ZREM', waiting_key(r.service), r.id) == 1 then close_line(r.service) end
  if not r.gate then return end
  local gate, waiting = gate_key(r), waiting_key(r.service)
  redis.call('ZREM', gate, r.id)
  local next, at = {}, math.min(redis.call('ZCARD', gate), r.gate_limit) - 1
  while at >= 0 do
    local id = redis.call('ZRANGE', gate, at, at)[1]
    local f = id and load(id)
    if not id then
      at = at - 1
    elseif not f or TERMINAL[f.status] then
      redis.call('ZREM', gate, id) -- its record was lost
    elseif tonumber(redis.call('ZSCORE', waiting, id) or 0) == GATED then
      table.insert(next, 1, f)
      at = at - 1
    else
      break
    end
  end
  for i = 1, #next do
    if let_in(next[i]) then readmit(next[i]) end
  end
end
local function content_key(content) return P .. 'content:' .. content end
local function unbind(content, name)
  local key = content_key(content)
  if redis.call('GET', key) == name then redis.call('DEL', key) end
end
local MOST_DEAD = 100000 -- of a tenant and partition in the index; older ones are found by their ID alone
local function dead_key(tenant, service, code)
  return P .. 'dead:' .. (service == '' and '*' or service) .. ':' .. #tenant .. ':' .. tenant .. ':' ..
    (code == '' and '*' or '=' .. code)
end
local function unbury(id, tenant, service, code)
  local member = id .. ' ' .. service .. ' ' .. code
  redis.call('ZREM', P .. 'graves', id .. ' ' .. service .. ' ' .. #tenant .. ' ' .. tenant .. code)
  redis.call('ZREM', dead_key(tenant, '', ''), member)
  redis.call('ZREM', dead_key(tenant, service, ''), member)
  if code == '' then return end
  redis.call('ZREM', dead_key(tenant, '', code), member)
  redis.call('ZREM', dead_key(tenant, service, code), member)
end
local function dead_letter(member) return string.match(member, '^(%S+) (%S+) (.*)$') end
local function bury(r)
  local v = redis.call('HMGET', r.key, 'tenant', 'code')
  local tenant, code, at = v[1] or '', v[2] or '', int(r.finished)
  local member, all = r.id .. ' ' .. r.service .. ' ' .. code, dead_key(tenant, '', '')
  try('ZADD', P .. 'graves', int(r.finished + r.retention), r.id .. ' ' .. r.service .. ' ' .. #tenant .. ' ' .. tenant .. code)
  try('ZADD', all, at, member)
  try('ZADD', dead_key(tenant, r.service, ''), at, member)
  if code ~= '' then
    try('ZADD', dead_key(tenant, '', code), at, member)
    try('ZADD', dead_key(tenant, r.service, code), at, member)
  end
  local n = try('ZCARD', all)
  if type(n) ~= 'number' or n <= MOST_DEAD then return end
  local id, service, other = dead_letter(redis.call('ZRANGE', all, 0, 0)[1])
  unbury(id, tenant, service, other)
end

local time_out, gather, close, part, share_out -- below; the last four of what has legs, and of what is shared
local function tally(r)
  local batch, number = string.match(r.batch, '^(%S+) (%d+)$')
  local key, list = P .. 'batch:' .. batch, P .. 'outcomes:' .. batch
  redis.call('HINCRBY', key, r.status, 1)
  redis.call('RPUSH', list, table.concat({ r.id, number, r.status, int(NOW) }, ' '))
  redis.call('SREM', P .. 'open:' .. batch, r.id)
  local v = redis.call('HMGET', key, 'until', 'waiters', 'ends')
  local last = math.max(tonumber(v[1] or 0), NOW + r.retention, tonumber(v[3] or 0))
  redis.call('HSET', key, 'until', int(last))
  if redis.call('EXISTS', P .. 'open:' .. batch) == 1 then
    last = NOW + math.max(redis.call('PTTL', key), last - NOW)
  end
  redis.call('PEXPIREAT', key, int(last))
  redis.call('PEXPIREAT', list, int(last))
  wake({ id = batch, waiters = v[2] })
end
local function finish(r, o)
  local claimed = claim(r)
  r.status, r.finished, ended = o.status, NOW, ended + 1
  local f = { 'status', o.status, 'finished', int(NOW) }
  local function set(name, value)
    if value and value ~= '' then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('reason', o.reason)
  set('code', o.code and string.sub(o.code, 1, MAX_CODE))
  set('message', o.message and string.sub(o.message, 1, MAX_MESSAGE))
  if string.find(r.events, 'm', 1, true) then -- the client asked for no reply
    o.rtype, o.rstatus, o.rheaders, o.reply = nil, nil, nil, nil
  end
  if o.rtype then f[#f + 1] = 'rtype'; f[#f + 1] = o.rtype end -- also an empty one: there is a reply
  set('rstatus', o.rstatus)
  set('rheaders', o.rheaders)
  if o.reply and #o.reply > SHORT then -- in the record, it would have each field of that take three times its bytes
    if r.parents then redis.call('SET', reply_key(r.id), o.reply) -- it expires with what it is a part of
    else redis.call('SET', reply_key(r.id), o.reply, 'PXAT', int(NOW + r.retention)) end
    r.short = not (r.callback or r.parents) -- it expires when it has to
  else
    r.short = true
    set('reply', o.reply)
  end
  if r.via then
    set('seq', int(r.seq))
    set('attempt', int(r.attempt))
    local run = redis.call('HMGET', record_key(r.via), 'history', 'entry')
    set('history', run[1])
    if r.how ~= 'hit' then set('entry', run[2]) end -- when it was queued
  end
  if claimed then set('started', int(claimed)); set('worker', r.worker) end
  redis.call('HSET', r.key, unpack(f))
  local dead = not r.parents and (o.status == 'failed' or o.status == 'timed_out')
  if dead and not r.via then park(r) end -- to be redriven; what shared a run finds it there
  if dead and not r.legs then bury(r) end -- a scatter has no body that could be kept
  if r.callback and string.find(r.events, TERMINAL[o.status], 1, true) then owe(r, o.status, r.seq + 1) end
  wake(r, told(r, o, claimed))
  if not r.parents then -- a leg is kept, and found, with its whole
    expire(r)
    local key, slot = kept(r)
    sum(key, slot, 1)
    later('ZADD', listing_key(r.status, r.tenant), nil, int(r.created), r.id)
    later('ZREM', listing_key('open', r.tenant), nil, r.id)
  end
  local ran = not r.legs and not r.via -- by itself
  if r.status == 'failed' and ran then sum(P .. 'counts', 'e:' .. r.service, 1) end
  if claimed and ran then
    sum(P .. 'counts', 'f:' .. r.service, 1)
    sum(P .. 'counts', 'b:' .. r.service, math.max(0, NOW - claimed))
  end
  if claimed and not o.by_worker and ran then redis.call('PUBLISH', 'cc:cancel:' .. r.service, id_of(r.id)) end
  later('ZREM', P .. 'due', nil, r.id)
  if r.waiters or r.sequenced or r.release or r.placed or r.acked then redis.call('HDEL', r.key, 'waiters', 'wseq', 'release', 'place', 'acked') end
  local shared = r.content and share_out(r, o)
  if r.content and redis.call('HEXISTS', r.key, 'mourned') == 1 then park(r)
  elseif not dead and not r.entry then redis.call('HDEL', r.key, 'body', 'content_type', 'headers') end
  if not r.via then
    if r.entry and not r.gate then -- what is on the stream waits for nothing else
      drop_later(r)
    else
      drop(r)
      leave(r)
    end
    touched[r.service] = true
  end
  if r.batch then tally(r) end
  local report = 'outcome ' .. r.id .. ' ' .. r.service .. ' ' .. o.status .. ' ' .. (o.reason ~= '' and o.reason or '-') ..
    ' ' .. int(NOW - r.created) .. ' ' .. int(claimed and NOW - claimed or 0) .. ' ' .. int(r.attempt)
  if shared then return string.sub(shared, 2) end -- those who shared it tell of it
  if r.via then return report .. part(r, dead) end
  if r.legs then return report .. close(r, o.open or o) end
  if r.parents and not o.closing then return report .. gather(r, #(o.reply or '')) end
  return report
end
share_out = function(r, o)
  local ttl = r.status == 'succeeded' and string.find(o.rstatus or '', '^2?%d?%d?$') and (o.cache or r.cache) or 0
  if ttl <= 0 then unbind(r.content, r.id)
  else redis.call('SET', content_key(r.content), r.id, 'PX', int(ttl)) end
  outlast(r.id, NOW + math.max(ttl, 1000))
  local report = {}
  for id in string.gmatch(not o.closing and r.parents or '', '%S+') do
    local s = load(id)
    if s and not TERMINAL[s.status] then
      claim(s)
      local over, reason = clock(s)
      if (o.at or NOW) > over then
        report[#report + 1] = '\n' .. time_out(s, reason)
      else
        report[#report + 1] = '\n' .. finish(s, { status = o.status, reason = o.reason, code = o.code, message = o.message,
          rtype = o.rtype, rstatus = o.rstatus, rheaders = o.rheaders, by_worker = true })
      end
    end
  end
  return table.concat(report)
end
part = function(r, dead)
  local run = load(r.via)
  if not run then return '' end
  if dead then redis.call('HSET', run.key, 'mourned', '1') end
  if run.finished then return '' end
  local left = {}
  for id in string.gmatch(run.parents or '', '%S+') do
    if id ~= r.id then left[#left + 1] = id end
  end
  redis.call('HSET', run.key, 'parents', table.concat(left, ' '))
  if #left > 0 then return '' end
  return finish(run, { status = 'canceled', reason = 'client', code = 'canceled', message = 'Nobody waits for it any more.', closing = true })
end
close = function(whole, o)
  local report = {}
  for leg = 1, whole.legs do
    local r = load(whole.id .. '/' .. leg)
    if r and not TERMINAL[r.status] then
      local as = { status = 'canceled', reason = 'scatter', code = 'not_needed', message = 'The scatter had its outcome without this one.', closing = true }
      if o.status == 'timed_out' or o.status == 'canceled' then
        as.status, as.reason, as.code, as.message = o.status, o.reason, o.code, o.message
      end
      report[#report + 1] = '\n' .. finish(r, as)
    end
  end
  return table.concat(report)
end
gather = function(r, size)
  local report = {}
  for id in string.gmatch(r.parents, '%S+') do
    local whole = load(id)
    if not whole or TERMINAL[whole.status] then
      expire(r) -- the whole was lost
    else
      began(r)
      whole.started = whole.started or r.started
      whole.ended, whole.latest = whole.ended + 1, NOW
      whole.bytes = whole.bytes + size
      if r.status == 'succeeded' then whole.succeeded = whole.succeeded + 1 end
      append(whole, int(NOW) .. ' answer/' .. leg_of(r.id) .. ' \n') -- refers to the reply, which is kept once
      redis.call('HSET', whole.key, 'scatter', table.concat({ int(whole.legs), int(whole.min), int(whole.stall),
        whole.partial and '1' or '0', int(whole.succeeded), int(whole.ended), int(whole.latest), int(whole.bytes) }, ' '))
      local open = whole.legs - whole.ended
      if whole.succeeded >= whole.min then
        report[#report + 1] = '\n' .. finish(whole, { status = 'succeeded', reason = '' })
      elseif NOW >= whole.deadline or open + whole.succeeded >= whole.min or whole.partial and open > 0 then
        schedule(whole)
        wake(whole)
      elseif whole.partial and whole.succeeded > 0 then
        report[#report + 1] = '\n' .. finish(whole, { status = 'succeeded', reason = 'partial' })
      else
        report[#report + 1] = '\n' .. finish(whole, { status = 'failed', reason = 'min_replies', code = 'too_few_replies',
          message = 'Of ' .. int(whole.legs) .. ' services, fewer than ' .. int(whole.min) .. ' can still succeed.' })
      end
    end
  end
  return table.concat(report)
end

local TIMEOUT = {
  total = { 'timeout', 'No outcome came before the timeout of the request.' },
  start = { 'start_timeout', 'No worker started the request before its start timeout.' },
  stall = { 'stall_timeout', 'No answer came for as long as the scatter waits for the next.' },
  run = { 'run_timeout', 'The worker did not reply before the run timeout.' },
}
time_out = function(r, reason)
  local o = { status = 'timed_out', reason = reason, code = TIMEOUT[reason][1], message = TIMEOUT[reason][2] }
  if r.legs and r.partial and r.succeeded > 0 then return finish(r, { status = 'succeeded', reason = 'partial', open = o }) end
  return finish(r, o)
end
local function again(r, c, code, message, delay)
  local old = { entry = r.entry, service = r.service }
  claim(r)
  next_attempt(r, code, message)
  if delay > 1 then r.release = math.floor(NOW + delay) end
  readmit(r, c)
  drop(old)
  touched[r.service] = true
end
local function rank(r)
  if r.via and not r.finished then r = load(r.via) or r end
  if r.status ~= 'queued' or r.entry then return '' end
  local waiting = waiting_key(r.service)
  local score = redis.call('ZSCORE', waiting, r.id)
  if not score then return '' end
  if tonumber(score) < INSTANT then return int(redis.call('ZRANK', waiting, r.id) + 1) end
  local line = redis.call('ZCOUNT', waiting, '-inf', '(' .. INSTANT)
  return int(line + math.max(1, r.gate and redis.call('ZRANK', gate_key(r), r.id) or 1))
end
local function legs(whole, v, inline)
  local sum, replies = 0, {}
  for leg = 1, whole.legs do
    local name, from = whole.id .. '/' .. leg, #v
    local r = load(name)
    local l = r and redis.call('HMGET', r.key, 'service', 'status', 'attempt', 'started', 'worker', 'finished', 'reason', 'code', 'message', 'rtype', 'rstatus') or {}
    if r and r.status == 'queued' and claim(r) then l[2], l[4], l[5] = 'running', int(r.started), r.worker end
    for i = 1, 11 do v[from + i] = l[i] or '' end
    local size = reply_size(name)
    v[from + 12], v[from + 13] = int(size), ''
    sum = sum + size
    replies[#replies + 1] = from + 13
    if r and not TERMINAL[whole.status] then
      if l[2] == 'running' and v[4] ~= 'running' then v[4], v[7] = 'running', l[4] end
      if v[4] == 'scheduled' and r.status == 'queued' then v[4] = 'queued' end
      if v[4] == 'scheduled' and r.release then v[13] = int(r.release) end
    end
  end
  if sum > inline or not TERMINAL[whole.status] then return end
  for leg = 1, whole.legs do
    v[replies[leg]] = reply_of(whole.id .. '/' .. leg)
  end
end
local random = tonumber(ARGV[4])

local function note(kind, id, service)
  report[#report + 1] = kind .. ' ' .. (id or '-') .. ' ' .. (service or '-')
end

local function aside(kind, cause, entry, f)
  set_aside(entry, cause, f)
  note(kind)
end
local function verdict(r, entry)
  if not wants_verdict(r.service) then return nil end
  return verdicts[entry] or false
end
local function time_to_cache(f)
  local ms = number(f.cache_ttl)
  return ms and math.floor(math.min(ms, WEEK)) or nil
end
local function renew(r, at)
  if not claim(r) then return end
  if not r.recorded then
    redis.call('HSET', r.key, 'status', 'running', 'started', int(r.started), 'worker', r.worker)
    r.status = 'running'
    schedule(r)
    wake(r)
    began(r)
  end
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

return { apply = apply, aside = aside, look_ahead = look_ahead, release = release }
 end)() end
  return made
end

local call, sub, match, gmatch, gsub, find = redis.call, string.sub, string.match, string.gmatch, string.gsub, string.find
local now = int(NOW)
local services, tenants, clocks, types, codes, instants = {}, {}, {}, {}, {}, {} -- what is known of them, by their text
local dues, applied = { 'ZREM', P .. 'due' }, 0
local NOTHING = {} -- that most records have besides

local function service_of(name)
  local s = { name = name, queue = queue_key(name), judged = wants_verdict(name), n = 0, busy = 0, asked = {}, waits = 0,
    ack = { 'XACK', queue_key(name), 'workers' }, delete = { 'XDEL', queue_key(name) } }
  services[name] = s
  return s
end

local function tenant_of(name)
  local t = { n = 0, ended = { 'ZADD', listing_key('succeeded', name) }, opened = { 'ZREM', listing_key('open', name) } }
  tenants[name] = t
  return t
end
local function clocks_of(text)
  local timeout, start, run, retention, events = match(text, '^(%d+) (%d+) (%d+) %d+ %d+ (%d+) (%S+)$')
  local c = { timeout = tonumber(timeout), start = tonumber(start), run = tonumber(run), forgotten = NOW + retention,
    retention = tonumber(retention), minimal = string.find(events, 'm', 1, true),
    together = start == '0' and run == '0' and string.find(events, 'd', 1, true), -- it is in clocks alone
    calls = string.find(events, TERMINAL.succeeded, 1, true), n = 0 }
  c.expires = int(c.forgotten)
  clocks[text] = c
  return c
end
local function plain_reply(flat)
  local bytes, may, label, kind, ctype, code, headers, body = 0, by_rule, nil, nil, '', nil, nil, ''
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    bytes = bytes + #value
    if name == 'token' then label = value
    elseif name == 'type' then kind = value
    elseif name == 'content_type' then ctype = value
    elseif name == 'body' then body = value
    elseif name == 'status_code' then code = value
    elseif name == 'headers' then headers = value
    elseif name ~= 'seq' or value ~= '1' then may = false end
  end
  local id = label and sub(label, 1, 36)
  if not may or kind ~= 'final' or not id or sub(label, 37, 39) ~= '.1.' or #body > largest then return bytes, id end
  return bytes, id, { id = id, nonce = sub(label, 40), ctype = ctype, code = code or false, headers = headers or false, body = body,
    key = record_key(id), entry = '', brief = false, also = '', more = NOTHING, created = '', clocks = false, service = false, tenant = false,
    held = false }
end
local function plain_request(c, text)
  local service, nonce, created, rest, f
  if text then
    service, nonce, c.entry, created, rest, c.also = match(text, '^(%S+) (%x+) (%S+) (%d+) (%d+ %d+ %d+ %d+ %d+ %d+ %S+) %d+ %d+(.*)$')
    if not service then return false end
    if c.also ~= '' then
      if string.byte(c.also) ~= 10 then return false end -- it has succeeded
      f = {}
      for name, value in gmatch(c.also, '\n(%a+) ([^\n]*)') do f[name] = value end
    end
  else
    local v = redis.pcall('HMGET', c.key, 'status', 'nonce', 'attempt', 'entry', 'service', 'plan', 'policy', 'batch', 'place', 'tenant', 'idem',
      'callback', 'waiters', 'seq')
    if v[1] ~= 'queued' or v[3] ~= '1' or not v[4] or not v[5] or not v[6] or v[8] then return false end
    if v[14] then return false end -- it was heard of while nobody held its entry, see renew
    created, rest = match(v[6], '^(%d+) (%d+ %d+ %d+ %d+ %d+ %d+ %S+) %d+ %d+$')
    if not created then return false end
    service, nonce, c.entry = v[5], v[2], v[4]
    f = { policy = v[7], place = v[9], tenant = v[10], idem = v[11], callback = v[12], waiters = v[13] }
  end
  f = f or NOTHING
  if nonce ~= c.nonce or f.policy and not match(f.policy, '^%d+ %d+ %- ') then return false end -- the second has a gate
  c.brief, c.more, c.created, c.clocks = text, f, created, clocks[rest] or clocks_of(rest)
  c.service = services[service] or service_of(service)
  if c.service.judged or c.clocks.minimal then return false end
  c.tenant = tenants[f.tenant or ''] or tenant_of(f.tenant or '')
  return true
end
local function before(a, b)
  if #a == #b then return a < b end
  local one, other = stream_ms(a), stream_ms(b)
  return one < other or one == other and #a < #b
end
local function find_holders(s)
  local asked, n, found, missed, next = s.asked, s.waits, {}, 0, 1
  if n > 1 and not s.apart then
    local first, last = asked[1].entry, asked[1].entry
    for i = 2, n do
      local entry = asked[i].entry
      if before(entry, first) then first = entry elseif before(last, entry) then last = entry end
    end
    found = redis.pcall('XPENDING', s.queue, 'workers', first, last, 2 * n)
  end
  local held -- by their entries, once they are in another order than the replies
  for i = 1, n do
    local c, of = asked[i], found[next]
    if of and of[1] == c.entry then
      c.held, next = of, next + 1
    elseif of then
      if not held then
        held = {}
        for j = 1, #found do held[found[j][1]] = found[j] end
      end
      c.held = held[c.entry]
    end
    if not c.held then
      missed = missed + 1
      c.held = redis.pcall('XPENDING', s.queue, 'workers', c.entry, c.entry, 1)[1]
    end
    asked[i] = nil
  end
  s.apart, s.waits = s.apart or n > 1 and missed * 2 > n, 0
end
local function record(c, started, worker, rtype, rstatus, rheaders)
  local more = c.more
  local callback, expires = more.callback and c.clocks.calls, c.clocks.expires
  if callback then
    try('XADD', P .. 'callbacks', '*', 'id', c.id, 'type', 'succeeded', 'number', '1', 'attempt', '1')
    expires = int(math.max(c.clocks.forgotten, NOW + CALLBACK_WINDOW))
  end
  if c.brief and not find(worker .. rheaders, '\n', 1, true) then
    local first, also, gap, within = c.brief, c.also, '', ''
    if also ~= '' then first = sub(first, 1, #first - #also) end
    if more.waiters or more.place then also = gsub(gsub(also, '\nwaiters [^\n]*', ''), '\nplace [^\n]*', '') end
    if #c.body > WITHIN then call('SET', reply_key(c.id), c.body, 'PXAT', expires) else gap, within = '\n\n', c.body end
    call('SET', c.key, first .. ' ' .. now .. ' ' .. started .. also .. '\nworker ' .. worker .. '\nrtype ' .. rtype ..
      (rstatus ~= '' and '\nrstatus ' .. rstatus or '') .. (rheaders ~= '' and '\nrheaders ' .. rheaders or '') ..
      (callback and '\nowed 1' or '') .. gap .. within, 'PXAT', expires)
    return
  end
  local flat = {}
  local function set(name, value)
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  if callback then set('owed', '1') end
  if rstatus ~= '' then set('rstatus', rstatus) end
  if rheaders ~= '' then set('rheaders', rheaders) end
  if #c.body > SHORT then call('SET', reply_key(c.id), c.body, 'PXAT', expires)
  elseif c.body ~= '' then set('reply', c.body) end
  if c.brief then unfold({ id = c.id, key = c.key, brief = fields_of(c.brief) }) end
  call('HSET', c.key, 'status', 'succeeded', 'finished', now, 'rtype', rtype, 'started', started, 'worker', worker, unpack(flat))
  call('PEXPIREAT', c.key, expires)
  if more.waiters or more.place then call('HDEL', c.key, 'waiters', 'place') end
end
local function apply_plain(c, reply)
  local held, all, entry, more = c.held, c.clocks, c.entry, c.more
  if not held or sub(held[2], 1, 5) == 'pull:' then return false end
  local created = instants[c.created] or tonumber(c.created)
  instants[c.created] = created
  local started, latest = math.max(NOW - held[3], stream_ms(entry)), created + all.timeout
  if all.start > 0 and started > created + all.start then latest = math.min(latest, created + all.start) end
  if all.run > 0 then latest = math.min(latest, started + all.run) end
  if NOW > latest and stream_ms(reply) > latest then return false end

  local rstatus, rheaders = '', ''
  if c.code then
    rstatus = codes[c.code] or status_code(c.code)
    codes[c.code] = rstatus
  end
  if c.headers and #c.headers <= MAX_REPLY_HEADERS then rheaders = c.headers end
  local rtype = types[c.ctype] or content_type(c.ctype)
  types[c.ctype] = rtype
  record(c, int(started), held[2], rtype, rstatus, rheaders)
  if more.idem then
    local bound = binding({ id = c.id, idem = more.idem })
    if bound then call('PEXPIREAT', bound, all.expires) end
  end
  if more.waiters then
    local r = { id = c.id, entry = entry, waiters = more.waiters, attempt = 1, seq = 0, retention = all.retention, worker = held[2] }
    wake_for(c.id, more.waiters, told(r, { status = 'succeeded', reply = c.body, rtype = rtype, rstatus = rstatus, rheaders = rheaders }, started))
  end

  local s, t, n = c.service, c.tenant, applied
  applied, ended, all.n = n + 1, ended + 1, all.n + 1
  plain[4 * n + 1], plain[4 * n + 2], plain[4 * n + 3], plain[4 * n + 4] = c.id, s.name, NOW - created, NOW - started
  if more.place or not all.together then dues[#dues + 1] = c.id end
  s.ack[s.n + 4], s.delete[s.n + 3] = entry, entry
  s.n, s.busy = s.n + 1, s.busy + math.max(0, NOW - started)
  t.ended[2 * t.n + 3], t.ended[2 * t.n + 4], t.opened[t.n + 3] = c.created, c.id, c.id
  t.n = t.n + 1
  return true
end
local function conclude_plain()
  if applied == 0 then return end
  for _, c in pairs(clocks) do
    if c.n > 0 then
      local key, slot = kept({ status = 'succeeded', finished = c.forgotten, retention = 0 })
      sum(key, slot, c.n)
    end
  end
  for _, t in pairs(tenants) do
    if t.n > 0 then
      try(unpack(t.ended))
      try(unpack(t.opened))
    end
  end
  if #dues > 2 then try(unpack(dues)) end
  for name, s in pairs(services) do
    if s.n > 0 then
      sum(P .. 'counts', 'f:' .. name, s.n)
      sum(P .. 'counts', 'b:' .. name, s.busy)
      try(unpack(s.ack))
      try(unpack(s.delete))
      touched[name] = true
    end
  end
end
local function read_handful(entries)
  local bytes, first, all, keys, asks = 0, {}, {}, {}, {}
  for i = 1, #entries do
    local size, id, c = plain_reply(entries[i][2])
    bytes = bytes + size
    if id and first[id] then -- what is read below does not hold any more when the second is applied
      c, all[first[id]] = nil, nil
    elseif id then
      first[id] = i
    end
    all[i] = c
  end
  for i = 1, #entries do
    if all[i] then
      local n = #keys + 1
      keys[n], asks[n] = all[i].key, i
    end
  end
  local texts = #keys > 0 and call('MGET', unpack(keys))
  for n = 1, #keys do
    local c = all[asks[n]]
    if plain_request(c, texts[n]) then
      local s = c.service
      s.waits = s.waits + 1
      s.asked[s.waits] = c
    else
      all[asks[n]] = nil
    end
  end
  for _, s in pairs(services) do
    if s.waits > 0 then find_holders(s) end
  end
  return bytes, all
end

local function fields(flat)
  local f = {}
  for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
  return f
end
local function attend(n, c, entry, flat)
  if c and apply_plain(c, entry) then return nil end
  return others().apply(entry, fields(flat), n)
end
local function own(gateway)
  local list = wakes[gateway]
  wakes[gateway] = nil
  return list and table.concat(list, ' ') or ''
end

local to_judge, left = {}, nil
local done, bytes, handful = 0, 0, 2
while done < most and bytes < budget and ended < most do
  local asked = math.min(handful, most - done)
  local entries = call('XRANGE', replies, '-', '+', 'COUNT', asked)
  if #entries == 0 then left = 0; break end
  local size, all = read_handful(entries)
  local ids, stopped = {}, false
  for i = 1, #entries do
    local entry, c = entries[i][1], all[i]
    local fine, said = pcall(attend, done + 1, c, entry, entries[i][2])
    if not fine then -- it would stop this script again and again, and all that come after it
      local f = fields(entries[i][2])
      f.body = (hopeless(said) or error(said)) .. ': ' .. (f.body or '')
      others().aside('garbage', 'error', entry, f)
    elseif said == 'judge' then
      stopped = entry
      break
    end
    done = done + 1
    ids[i] = entry
    if ended >= most then break end
  end
  bytes = bytes + size
  if #ids > 0 then call('XDEL', replies, unpack(ids)) end
  if stopped then
    to_judge = others().look_ahead(stopped)
    break
  end
  if #ids < asked and #ids == #entries then left = 0; break end
  handful = bytes / done < 16384 and math.min(handful * 2, 16) or 1
end
conclude_plain()
write_gathered()
local function let_in(service) others().release(service) end
for service in pairs(touched) do risk(make_room, service, let_in) end -- as conclude does
local mine = own('+' .. ARGV[10]) .. ' ' .. own(ARGV[10])
publish_wakes()
return { left or call('XLEN', replies), now, report, to_judge, plain, mine }
