-- settle.lua takes what workers sent off the reply stream, oldest first, and
-- applies it: events are numbered, leases renewed, outcomes stored, and the
-- work entry is acknowledged and deleted in the same step. Atomic because the
-- reply is the acknowledgement: a reply is either still here or fully applied.
-- The bytes of a reply never leave Redis on the way.
--
-- Most replies are plain: the final one to the first attempt of a request that is on
-- its stream by itself, and of which nothing was heard before. This file applies those,
-- with what is the same for many done once, and leaves all others to apply.lua, which
-- is made when the first of them comes: to make its functions costs as much as two
-- plain replies. Both ways do the same in Redis, as TestPlainRepliesAreAppliedAsOthers
-- holds them to.
--
-- KEYS[1] reply stream of the partition
-- ARGV[2] most replies, and outcomes after which it stops, since one reply may end a
--     hundred requests, [3] bytes after which it stops, [4] a random number in
--     [0,1) for the back-off, [5] how many events and bytes of them a request
--     keeps, a line "service events bytes" each, "*" for the others, [6] largest
--     event, [7] largest reply that is kept, [8] services whose final replies are
--     judged first, each between spaces, "*" for all, [9] 1 where no reply is
--     plain, [10] gateway that calls, [11] callbacks that this takes at once, [12] ms for
--     which they are its own; then seven for each verdict:
--     [13] entry, 'pass', 'change' or 'fail', error code, message, content type, status
--     code, body
-- Returns {left on the stream, now, report lines, "entry service" to be judged, plain
--     outcomes, wake-ups of the caller that tell of outcomes, its others, id and view of
--     each callback that the caller is to deliver}: the script stops before the first final
--     reply that wants a verdict and has none. A line is
--     "outcome id service status reason total-ms run-ms attempt", or
--     "event|heartbeat|retry|late|duplicate|stale|orphan|foreign|garbage|oversize id service";
--     of each plain outcome there are id, service, total-ms, run-ms.
even_when_full()
local replies = KEYS[1]
local most, budget, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[7])
local report, plain = {}, {}
local judged, verdicts = ARGV[8], {}
for i = 13, #ARGV, 7 do verdicts[ARGV[i]] = i end
local by_rule = ARGV[9] ~= '1'

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

-- others are the functions of apply.lua.
local made
local function others()
  if not made then made = (function() include('apply') end)() end
  return made
end

local call, sub, match, gmatch, gsub, find = redis.call, string.sub, string.match, string.gmatch, string.gsub, string.find
local now = int(NOW)
local services, tenants, clocks, types, codes, instants, besides = {}, {}, {}, {}, {}, {}, {} -- what is known of them, by their text
local dues, applied = { 'ZREM', P .. 'due' }, 0
local NOTHING = { left = '' } -- that most records have besides
local handed, takes = {}, 2 * tonumber(ARGV[11])

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

-- clocks_of reads what many plans have in common: all but when they were created.
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

-- plain_reply reads an entry of the reply stream that has the fields flat. Returns the
-- bytes of them, whose reply it is, and what the plain way needs where that may do: a
-- table of the sixteen fields that it will have, since to grow one costs more.
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
    key = record_key(id), entry = '', text = false, also = '', more = NOTHING, created = '', clocks = false, service = false, tenant = false,
    held = false }
end

-- besides_of reads the other lines of a brief record, which are often those of another. left
-- are those that it keeps at its end.
local function besides_of(text)
  local f = { left = text }
  for name, value in gmatch(text, '\n(%a+) ([^\n]*)') do f[name] = value end
  if f.waiters or f.place then f.left = gsub(gsub(text, '\nwaiters [^\n]*', ''), '\nplace [^\n]*', '') end
  besides[text] = f
  return f
end

-- plain_request reads the record for the reply c, which is brief where that is a text.
-- Returns whether it is plain too: it waits for no more than a worker, nobody has heard of
-- one, and what its end has to tell others is told here.
local function plain_request(c, text)
  local service, nonce, created, rest, f
  if text then
    service, nonce, c.entry, created, rest, c.also = match(text, '^(%S+) (%x+) (%S+) (%d+) (%d+ %d+ %d+ %d+ %d+ %d+ %S+) %d+ %d+(.*)$')
    if not service then return false end
    if c.also ~= '' then
      if string.byte(c.also) ~= 10 then return false end -- it has succeeded
      f = besides[c.also] or besides_of(c.also)
    end
  else
    local v = redis.pcall('HMGET', c.key, 'status', 'nonce', 'attempt', 'entry', 'service', 'plan', 'policy', 'batch', 'place', 'tenant', 'idem',
      'callback', 'waiters', 'seq')
    if v[1] ~= 'queued' or v[3] ~= '1' or not v[4] or not v[5] or not v[6] or v[8] then return false end
    if v[14] then return false end -- it was heard of while nobody held its entry, see renew
    created, rest = match(v[6], '^(%d+) (%d+ %d+ %d+ %d+ %d+ %d+ %S+) %d+ %d+$')
    if not created then return false end
    service, nonce, c.entry = v[5], v[2], v[4]
    f = { tenant = v[10], idem = v[11], callback = v[12], waiters = v[13] }
    f.policy, f.place = v[7], v[9]
  end
  f = f or NOTHING
  if nonce ~= c.nonce or f.policy and not match(f.policy, '^%d+ %d+ %- ') then return false end -- the second has a gate
  c.text, c.more, c.created, c.clocks = text, f, created, clocks[rest] or clocks_of(rest)
  c.service = services[service] or service_of(service)
  if c.service.judged or c.clocks.minimal then return false end
  c.tenant = tenants[f.tenant or ''] or tenant_of(f.tenant or '')
  return true
end

-- before compares two stream IDs.
local function before(a, b)
  if #a == #b then return a < b end
  local one, other = stream_ms(a), stream_ms(b)
  return one < other or one == other and #a < #b
end

-- find_holders reads off the pending list who holds the entries that the replies of s
-- asked for, all at once: they are mostly beside each other there. Where they were not,
-- the next ones are looked for one by one.
local function find_holders(s)
  local asked, n, found, missed, at = s.asked, s.waits, {}, 0, 1
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
    local c, of = asked[i], found[at]
    if of and of[1] == c.entry then
      c.held, at = of, at + 1
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

-- owe_plain stores the intent to tell of the outcome of c, and tells whether the caller is
-- to do that at once. Then it is in due as one that is to be tried again: where the caller
-- is no more, it is handed out as that is.
local function owe_plain(c)
  if #handed < takes and c.text and #c.body <= TOLD then
    try('ZADD', P .. 'due', int(NOW + ARGV[12]), CALLBACK .. c.id .. ' succeeded 1 1')
    return true
  end
  try('XADD', P .. 'callbacks', '*', 'id', c.id, 'type', 'succeeded', 'number', '1', 'attempt', '1')
end

-- hand gives c to the caller, as view would show it. first is the first line of what its
-- record was.
local function hand(c, first, started, worker, rtype, rstatus, rheaders)
  local f, n = c.more, #handed
  handed[n + 1], handed[n + 2] = c.id, { c.service.name, sub(first, #c.service.name + #c.nonce + #c.entry + 4), f.tenant or '', 'succeeded', '1',
    c.entry, started, worker, '', f.callback, f.trace or '', '', '', '', f.policy or '', f.tags or '', '', '', '',
    now, '', '', '', rtype, rstatus, rheaders, '', int(#c.body), c.body }
end

-- record writes the outcome into the record of the request that the plain reply c is
-- to, with its reply.
local function record(c, started, worker, rtype, rstatus, rheaders)
  local more = c.more
  local callback, expires = more.callback and c.clocks.calls, c.clocks.expires
  local at_once = callback and owe_plain(c)
  if callback then expires = int(math.max(c.clocks.forgotten, NOW + CALLBACK_WINDOW)) end
  if c.text then
    local first, gap, within = c.text, '', ''
    if c.also ~= '' then first = sub(first, 1, #first - #c.also) end
    if #c.body > WITHIN then call('SET', reply_key(c.id), c.body, 'PXAT', expires) else gap, within = '\n\n', c.body end
    -- In one expression: each text that there is in between would be hashed, to its last byte.
    call('SET', c.key, first .. ' ' .. now .. ' ' .. started .. more.left .. '\nworker ' .. worker .. '\nrtype ' .. rtype ..
      (rstatus ~= '' and '\nrstatus ' .. rstatus or '') .. (rheaders ~= '' and '\nrheaders ' .. rheaders or '') ..
      (callback and '\nowed 1' or '') .. gap .. within, 'PXAT', expires)
    if at_once then hand(c, first, started, worker, rtype, rstatus, rheaders) end
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
  call('HSET', c.key, 'status', 'succeeded', 'finished', now, 'rtype', rtype, 'started', started, 'worker', worker, unpack(flat))
  call('PEXPIREAT', c.key, expires)
  if more.waiters or more.place then call('HDEL', c.key, 'waiters', 'place') end
end

local seen, outcome = { attempt = 1, seq = 0 }, { status = 'succeeded' } -- of one plain reply after the other, for told

-- apply_plain records the outcome of the plain reply c, which is the entry reply.
-- Returns false, and has done nothing, where it is not plain after all: nobody holds
-- its entry, or it came late.
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
  if c.text and find(held[2] .. rheaders, '\n', 1, true) then return false end -- no line of a brief record
  local rtype = types[c.ctype] or content_type(c.ctype)
  types[c.ctype] = rtype
  record(c, int(started), held[2], rtype, rstatus, rheaders)
  if more.idem then
    local bound = binding({ id = c.id, idem = more.idem })
    if bound then call('PEXPIREAT', bound, all.expires) end
  end
  if more.waiters then
    seen.id, seen.entry, seen.waiters, seen.retention, seen.worker = c.id, entry, more.waiters, all.retention, held[2]
    outcome.reply, outcome.rtype, outcome.rstatus, outcome.rheaders = c.body, rtype, rstatus, rheaders
    wake_for(c.id, more.waiters, told(seen, outcome, started))
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

-- conclude_plain does what is done once for all plain replies, as write_gathered does.
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

-- read_handful reads entries of the reply stream, and the records of those that may be
-- plain. Returns the bytes of all, and by its place each that the plain way may take.
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

-- attend applies the reply n, which c is where it may be plain. Returns 'judge' where
-- that has to come first.
local function attend(n, c, entry, flat)
  if c and apply_plain(c, entry) then return nil end
  return others().apply(entry, fields(flat), n)
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
-- let_go is release, which is made when somebody stands in a line for which there is room.
local releasing
local function let_go(service, limit)
  if not releasing then releasing = (function() include('release') end)() end
  releasing(service, limit)
end
risk(make_rooms, let_go) -- as conclude does
local told_of, woken = own('+' .. ARGV[10]), own(ARGV[10])
publish_wakes()
return { left or call('XLEN', replies), now, report, to_judge, plain, told_of, woken, handed }
