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
-- Returns lines: now, and of each started and worker, or 0 and '' where nothing was done.
-- No worker has a line break in its name then.
even_when_full()
local ARGV, call, sub, find, max, min = ARGV, redis.call, string.sub, string.find, math.max, math.min
local at, kinds, tenants, now, done = 4, {}, {}, int(NOW), { 'XDEL', KEYS[1], nil }
local answers = { now, nil, nil }

for i = 1, tonumber(ARGV[3]) do
  local t, forgotten, owed, more = tenants[ARGV[at]], NOW + ARGV[at + 4], ARGV[at + 8], '\nrtype ' .. ARGV[at + 5]
  if not t then
    t = { n = 0, ended = { 'ZADD', listing_key('succeeded', ARGV[at]), nil, nil }, opened = { 'ZREM', listing_key('open', ARGV[at]), nil } }
    tenants[ARGV[at]] = t
  end
  if ARGV[at + 6] ~= '' then more = more .. '\nrstatus ' .. ARGV[at + 6] end
  if ARGV[at + 7] ~= '' then more = more .. '\nrheaders ' .. ARGV[at + 7] end
  if owed ~= '' then more = more .. '\nowed 1' end
  kinds[i] = { at = at, n = 0, tenant = t, timeout = tonumber(ARGV[at + 1]), start = tonumber(ARGV[at + 2]), run = tonumber(ARGV[at + 3]),
    forgotten = forgotten, expires = int(owed ~= '' and max(forgotten, NOW + CALLBACK_WINDOW) or forgotten), more = more,
    owed = owed ~= '' and owed, waiters = ARGV[at + 9], due = ARGV[at + 10] == '1' }
  at = at + 11
end

-- holder finds who holds an entry among those found on the pending list from next on,
-- where it is as a rule. Returns its pending entry, and the next after that.
local function holder(queue, found, next, entry)
  for i = next, #found do
    if found[i][1] == entry then return found[i], i + 1 end
  end
  return redis.pcall('XPENDING', queue, 'workers', entry, entry, 1)[1], next
end

-- The records, of all services at once.
local keys, read, here = { nil, nil, nil }, 0, at
while here < #ARGV do
  local n = tonumber(ARGV[here + 1])
  for i = 1, n do keys[#keys + 1] = record_key(ARGV[here + 10 * i - 7]) end
  here = here + 2 + 10 * n
end
local texts = call('MGET', unpack(keys))

-- What is remembered of one request for the next: created as a number, and whether a
-- worker's name is one of who has claimed what it has, see entrust.lua, and may be in a line
-- of a record.
local instants, holds, dues, counts = {}, {}, nil, {}
local owe, bind, tell -- of besides.lua, once somebody needs them
local which, k -- the kind

-- Each service, and each request of it. (What is done in one place is no function: to make
-- one costs as much as a command, once it takes some of the names that there are here.)
while at < #ARGV do
  local service, n = ARGV[at], tonumber(ARGV[at + 1])
  local queue = queue_key(service)
  at = at + 2
  local found = redis.pcall('XPENDING', queue, 'workers', ARGV[at + 2], ARGV[at + 10 * n - 8], 2 * n)
  local next, m, busy = 1, 0, 0
  local ack, delete = { 'XACK', queue, 'workers', nil }, { 'XDEL', queue, nil }
  for i = 1, n do
    local entry, text, answer, held = ARGV[at + 2], ARGV[at + 5], #answers, nil
    if ARGV[at] ~= which then
      which = ARGV[at]
      k = kinds[tonumber(which)]
    end
    answers[answer + 1], answers[answer + 2] = '0', ''
    read = read + 1
    if texts[read] == text then held, next = holder(queue, found, next, entry) end
    local worker = held and held[2]
    if worker and holds[worker] == nil then holds[worker] = sub(worker, 1, 5) ~= 'pull:' and not find(worker, '\n', 1, true) end
    if worker and holds[worker] then
      local id, created, first, idem, body = ARGV[at + 1], ARGV[at + 4], text, ARGV[at + 8], ARGV[at + 9]
      local ms, started = instants[created], NOW - held[3]
      if not ms then
        ms = tonumber(created)
        instants[created] = ms
      end
      if int(started) <= entry then started = max(started, stream_ms(entry)) end -- idle times are rounded
      local latest = ms + k.timeout
      if k.start > 0 and started > ms + k.start then latest = min(latest, ms + k.start) end
      if k.run > 0 then latest = min(latest, started + k.run) end
      local late = NOW > latest and stream_ms(ARGV[at + 3]) > latest
      if not late then
        local gap, within, since = '', '', int(started)
        if ARGV[at + 6] ~= '' then first = sub(text, 1, tonumber(ARGV[at + 6])) end
        if not owe and (k.owed or idem ~= '' or k.waiters ~= '') then owe, bind, tell = (function() include('besides') end)() end
        if k.owed then owe(id, k.owed) end
        if #body > WITHIN then call('SET', reply_key(id), body, 'PXAT', k.expires) else gap, within = '\n\n', body end
        -- In one expression: each text that there is in between would be hashed.
        call('SET', keys[read], first .. ' ' .. now .. ' ' .. since .. ARGV[at + 7] .. '\nworker ' .. worker .. k.more .. gap .. within, 'PXAT', k.expires)
        if idem ~= '' then bind(id, idem, k.forgotten) end
        if k.waiters ~= '' then tell(id, entry, k, started, worker, body) end
        if k.due then
          dues = dues or { 'ZREM', P .. 'due' }
          dues[#dues + 1] = id
        end
        local t, ran = k.tenant, NOW - started
        local of = t.n
        t.ended[2 * of + 3], t.ended[2 * of + 4], t.opened[of + 3] = created, id, id
        ack[m + 4], delete[m + 3], done[#done + 1] = entry, entry, ARGV[at + 3]
        k.n, t.n, m = k.n + 1, of + 1, m + 1
        if ran > 0 then busy = busy + ran end
        answers[answer + 1], answers[answer + 2] = since, worker
      end
    end
    at = at + 10
  end
  if m > 0 then
    counts['f:' .. service], counts['b:' .. service] = m, busy
    try(unpack(ack))
    try(unpack(delete))
    touched[service] = true
  end
end

if #done > 2 then
  local slots, key = {}, nil
  for _, k in pairs(kinds) do
    if k.n > 0 then
      local slot
      key, slot = kept({ status = 'succeeded', finished = k.forgotten, retention = 0 })
      slots[slot] = (slots[slot] or 0) + k.n
    end
  end
  for _, t in pairs(tenants) do
    if t.n > 0 then
      try(unpack(t.ended))
      try(unpack(t.opened))
    end
  end
  if dues then try(unpack(dues)) end
  add_up(P .. 'counts', counts)
  add_up(key, slots)
  call(unpack(done))
  if lined() then
    -- let_go is release, which is made when somebody stands in a line for which there is room.
    local releasing
    local function let_go(service, limit)
      if not releasing then releasing = (function() include('release') end)() end
      releasing(service, limit)
    end
    risk((function() include('rooms') end)(), let_go)
  end
  publish_wakes()
end
return table.concat(answers, '\n')
