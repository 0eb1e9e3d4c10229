-- succeed.lua stores the outcomes that plain replies are, see plain.go: the final one to
-- the first attempt of a request that is on its stream by itself, and of which nothing was
-- heard before. Most replies are that. The gateway has read the replies and the records and
-- says what is to be stored; where a record is not what it has read any more, or nobody
-- holds the entry, or the reply came late, nothing is done and settle.lua has it. So what is
-- read need not be read here, where each text is hashed to its last byte.
-- Atomic because the reply is the acknowledgement, as in settle.lua; both do the same in
-- Redis, as TestPlainRepliesAreAppliedAsOthers holds them to.
--
-- KEYS[1] reply stream of the partition
-- ARGV[2] ms for which callbacks that are handed over are the caller's own, [3] how many
--     kinds follow, each of: tenant, timeout, start, run, retention, content type, status
--     code or '', headers or '', what becomes of its callback: 'hand' over, 'owe' or '',
--     gateways to wake besides the caller, '1' where it is in due; then of each service:
--     name, how many follow, and of each in the order of their entries: kind, ID, entry,
--     reply, created, record, length of the first line of that or '', other lines that it keeps,
--     idempotency, body
-- Returns {now, and of each: started and worker, or 0 and '' where nothing was done}
even_when_full()
local ARGV, call, sub, find, max, min = ARGV, redis.call, string.sub, string.find, math.max, math.min
local at, kinds, now, answers, done = 4, {}, int(NOW), { NOW }, { 'XDEL', KEYS[1] }
local dues, tenants, instants, workers = { 'ZREM', P .. 'due' }, {}, {}, {}

local function tenant_of(name)
  local t = { n = 0, ended = { 'ZADD', listing_key('succeeded', name) }, opened = { 'ZREM', listing_key('open', name) } }
  tenants[name] = t
  return t
end

for i = 1, tonumber(ARGV[3]) do
  local forgotten, owed = NOW + ARGV[at + 4], ARGV[at + 8] ~= '' and ARGV[at + 8]
  local k = { timeout = tonumber(ARGV[at + 1]), start = tonumber(ARGV[at + 2]), run = tonumber(ARGV[at + 3]), retention = ARGV[at + 4], n = 0,
    rtype = ARGV[at + 5], rstatus = ARGV[at + 6], rheaders = ARGV[at + 7], owed = owed, waiters = ARGV[at + 9], due = ARGV[at + 10] == '1',
    tenant = tenants[ARGV[at]] or tenant_of(ARGV[at]), forgotten = int(forgotten), expires = int(forgotten), more = '' }
  if owed then k.expires, k.more = int(max(forgotten, NOW + CALLBACK_WINDOW)), '\nowed 1' end
  if k.rheaders ~= '' then k.more = '\nrheaders ' .. k.rheaders .. k.more end
  if k.rstatus ~= '' then k.more = '\nrstatus ' .. k.rstatus .. k.more end
  k.more = '\nrtype ' .. k.rtype .. k.more
  kinds[int(i)], at = k, at + 11
end

-- bind keeps the idempotency key of a request for as long as its record.
local function bind(id, idem, k)
  local bound = binding({ id = id, idem = idem })
  if bound then call('PEXPIREAT', bound, k.forgotten) end
end

-- owe_plain stores the intent to tell of the outcome of id: on the stream, or where the
-- caller does that at once, in due as one that is to be tried again.
local function owe_plain(id, k)
  if k.owed == 'hand' then
    try('ZADD', P .. 'due', int(NOW + ARGV[2]), CALLBACK .. id .. ' succeeded 1 1')
  else
    try('XADD', P .. 'callbacks', '*', 'id', id, 'type', 'succeeded', 'number', '1', 'attempt', '1')
  end
end

local function tell(id, entry, k, started, worker, body)
  local r = { id = id, entry = entry, waiters = k.waiters, retention = tonumber(k.retention), worker = worker, attempt = 1, seq = 0 }
  wake_for(id, k.waiters, told(r, { status = 'succeeded', reply = body, rtype = k.rtype, rstatus = k.rstatus, rheaders = k.rheaders }, started))
end

-- holder finds who holds an entry among those found on the pending list from next on,
-- where it is as a rule. Returns its pending entry, and the next after that.
local function holder(queue, found, next, entry)
  for i = next, #found do
    if found[i][1] == entry then return found[i], i + 1 end
  end
  return redis.pcall('XPENDING', queue, 'workers', entry, entry, 1)[1], next
end

-- instant reads ms; most of many have the same.
local function instant(text)
  local n = tonumber(text)
  instants[text] = n
  return n
end

-- holds tells whether a worker's name is one of who has claimed what it has, see
-- entrust.lua, and may be in a line of a record.
local function holds(name)
  local it = sub(name, 1, 5) ~= 'pull:' and not find(name, '\n', 1, true)
  workers[name] = it
  return it
end

-- The records, of all services at once.
local keys, read, here = {}, 0, at
while here < #ARGV do
  local n = tonumber(ARGV[here + 1])
  for i = 1, n do keys[#keys + 1] = record_key(ARGV[here + 10 * i - 7]) end
  here = here + 2 + 10 * n
end
local texts = call('MGET', unpack(keys))

-- end_all ends n requests of a service.
local function end_all(service, n)
  local queue = queue_key(service)
  local found = redis.pcall('XPENDING', queue, 'workers', ARGV[at + 2], ARGV[at + 10 * n - 8], 2 * n)
  local next, m, busy = 1, 0, 0
  local ack, delete = { 'XACK', queue, 'workers' }, { 'XDEL', queue }
  for i = 1, n do
    local k, entry, text, answer, held = kinds[ARGV[at]], ARGV[at + 2], ARGV[at + 5], #answers, nil
    answers[answer + 1], answers[answer + 2] = 0, ''
    read = read + 1
    if texts[read] == text then held, next = holder(queue, found, next, entry) end
    local worker = held and held[2]
    if worker and (workers[worker] == nil and holds(worker) or workers[worker]) then
      local id, created, first, body = ARGV[at + 1], ARGV[at + 4], text, ARGV[at + 9]
      local ms, started = instants[created] or instant(created), NOW - held[3]
      if int(started) <= entry then started = max(started, stream_ms(entry)) end -- idle times are rounded
      local latest = ms + k.timeout
      if k.start > 0 and started > ms + k.start then latest = min(latest, ms + k.start) end
      if k.run > 0 then latest = min(latest, started + k.run) end
      local late = NOW > latest and stream_ms(ARGV[at + 3]) > latest
      if not late then
        local gap, within = '', ''
        if ARGV[at + 6] ~= '' then first = sub(text, 1, tonumber(ARGV[at + 6])) end
        if k.owed then owe_plain(id, k) end
        if #body > WITHIN then call('SET', reply_key(id), body, 'PXAT', k.expires) else gap, within = '\n\n', body end
        -- In one expression: each text that there is in between would be hashed.
        call('SET', keys[read], first .. ' ' .. now .. ' ' .. int(started) .. ARGV[at + 7] .. '\nworker ' .. worker .. k.more .. gap .. within, 'PXAT', k.expires)
        if ARGV[at + 8] ~= '' then bind(id, ARGV[at + 8], k) end
        if k.waiters ~= '' then tell(id, entry, k, started, worker, body) end
        if k.due then dues[#dues + 1] = id end
        local t, ran = k.tenant, NOW - started
        local of = t.n
        t.ended[2 * of + 3], t.ended[2 * of + 4], t.opened[of + 3] = created, id, id
        ack[m + 4], delete[m + 3], done[#done + 1] = entry, entry, ARGV[at + 3]
        k.n, t.n, m = k.n + 1, of + 1, m + 1
        if ran > 0 then busy = busy + ran end
        answers[answer + 1], answers[answer + 2] = started, worker
      end
    end
    at = at + 10
  end
  if m > 0 then
    sum(P .. 'counts', 'f:' .. service, m)
    sum(P .. 'counts', 'b:' .. service, busy)
    try(unpack(ack))
    try(unpack(delete))
    touched[service] = true
  end
end

while at < #ARGV do
  local service, n = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  end_all(service, n)
end
if #done > 2 then
  for _, k in pairs(kinds) do
    if k.n > 0 then
      local key, slot = kept({ status = 'succeeded', finished = tonumber(k.forgotten), retention = 0 })
      sum(key, slot, k.n)
    end
  end
  for _, t in pairs(tenants) do
    if t.n > 0 then
      try(unpack(t.ended))
      try(unpack(t.opened))
    end
  end
  if #dues > 2 then try(unpack(dues)) end
  write_gathered()
  call(unpack(done))
  -- let_go is release, which is made when somebody stands in a line for which there is room.
  local releasing
  local function let_go(service, limit)
    if not releasing then releasing = (function() include('release') end)() end
    releasing(service, limit)
  end
  risk(make_rooms, let_go)
  publish_wakes()
end
return answers
