-- submit.lua accepts requests. For each of them its record, its idempotency binding
-- and its work entry, or its place among the waiting, come into being together or not
-- at all. Atomic because a 202 must mean all three; idempotent because the nonce
-- tells a re-send from a collision. It takes many, since much of what a script costs
-- is to begin it. One that may share a run, see share.lua, gets a run of its own only
-- where there is none to share.
--
-- KEYS[1] any of the partition
-- ARGV[2…] of each request: id, nonce, service, plan, content type, headers, body,
--     how many options follow, and of each option its name and its value. The plan is
--     "timeout start run lease max-attempts retention back-off most concurrency", in
--     ms; most is how many requests may be queued or wait, concurrency that of the
--     service or 0. The options, all of them left out where there is nothing to say:
--       tenant, trace, policy, delay, tags; callback, a URL; events, "-" without it
--       idem, fingerprint    the hash of the idempotency key, and of what it stands for
--       moves     ms after which the key has another home
--       register  the tenant is new to this process, see enroll
--       sharing   "content ttl join bind age only": the hash that it may share a run
--                 by, the ms for which the reply is cached where the worker says
--                 nothing, whether it may join an open run (1), whether others may join
--                 its own (1), ms of the oldest cached reply that will do, -1 for none,
--                 and whether nothing else will do (1)
--       waiter    the gateway to wake
--       batch, item, ends    the batch and the number in it, and until when the batch is
--                 remembered at least
-- Returns for each {'accepted' | 'collision' | 'gone' | 'full' | 'replayed' | 'item' |
--     'mismatch' | 'moved' | 'uncached' | 'error', …}: gone: it was accepted by an earlier
--     try, and forgotten since; accepted: created, entry or '', ordinal or 0,
--     status, and miss, shared, hit or ''; replayed: the ID of the earlier request; item:
--     the same, of one that this item was before, whether or not it is still known;
--     error: its text, and what became of the request is unknown
local plans = {} -- by text: they are mostly the same

local function read_plan(text)
  local p = plans[text]
  if not p then
    local timeout, start, run, lease, max, retention, backoff, most, concurrency =
      string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
    p = { timeout = tonumber(timeout), start = tonumber(start), run = tonumber(run), lease = tonumber(lease), max = max,
      retention = retention, backoff = backoff, most = tonumber(most), concurrency = concurrency,
      clocks = table.concat({ int(NOW), timeout, start, run, lease, max, retention }, ' ') }
    plans[text] = p
  end
  return p
end

-- is_item notes which request the item s of a batch is, where its batch may be sent
-- again, and keeps the batch that long.
local function is_item(s, request, until_ms)
  local batch = P .. 'batch:' .. s.batch
  redis.call('HSET', batch, 'ends', s.ends)
  if s.idem then redis.call('HSET', batch, 'i' .. s.item, request) end
  local left = redis.call('PTTL', batch)
  redis.call('PEXPIREAT', batch, int(math.max(NOW + left, tonumber(s.ends), until_ms)))
end

-- open_item has the batch of s count the open request r.
local function open_item(s, r)
  local open = P .. 'open:' .. s.batch
  is_item(s, r.id, r.deadline + WEEK)
  redis.call('HINCRBY', P .. 'batch:' .. s.batch, 'accepted', 1)
  redis.call('SADD', open, r.id)
  redis.call('PEXPIREAT', open, int(NOW + math.max(redis.call('PTTL', open), r.deadline + WEEK - NOW)))
end

-- store writes the record of r, which came by the submission s, with its clocks as the
-- plan in the record has them; of what it has besides, f can be brief, others not.
local function store(s, r, clocks, events, f, others)
  local plan = clocks .. ' ' .. events .. ' ' .. int(r.ordinal or 0) .. ' ' .. s.plan.backoff
  f.trace, f.policy, f.place = s.trace, s.policy, r.place and string.format('%.6f', r.place)
  if r.entry and not next(others) then
    redis.call('SET', r.key, brief(r.service, r.nonce, r.entry, plan) .. lines(f))
    return
  end
  local all = { 'service', r.service, 'nonce', r.nonce, 'plan', plan, 'status', r.status, 'attempt', '1' }
  others.entry, others.release = r.entry, r.release and int(r.release)
  for _, part in ipairs({ f, others }) do
    for name, value in pairs(part) do all[#all + 1] = name; all[#all + 1] = value end
  end
  redis.call('HSET', r.key, unpack(all))
end

-- queue has r, which runs, go where it may.
local function queue(s, r)
  if s.delay then r.release = NOW + tonumber(s.delay) end
  policy(r, s.policy)
  accept(r, s.plan.concurrency, { content_type = s.content_type, traceparent = s.trace, headers = s.headers, body = s.body })
end

local function request(s, name, ends)
  return { id = name, key = record_key(name), service = s.service, nonce = s.nonce, attempt = 1, created = NOW, ordinal = 0,
    deadline = ends, start = s.plan.start, run = s.plan.run, lease = s.plan.lease }
end

-- share_run has r, which shares a run or is the first of one, refer to it. It may go
-- on for others after its own end, so the worker is given more time.
local function share_run(s, r, sharing, run, how)
  if run then
    redis.call('HINCRBY', run.key, 'sharers', 1)
    if how == 'shared' then redis.call('HSET', run.key, 'parents', (run.parents ~= '' and run.parents .. ' ' or '') .. r.id) end
  else
    local time = s.plan.timeout * (sharing.bind and 2 or 1)
    run = request(s, r.id .. '/0', NOW + time)
    run.start, run.run = 0, 0 -- those who share it have their own
    queue(s, run)
    local clocks = table.concat({ int(NOW), int(time), '0', '0', int(run.lease), s.plan.max, s.plan.retention }, ' ')
    store(s, run, clocks, '-', {}, { parents = r.id, sharing = sharing.content .. ' ' .. sharing.ttl, sharers = '1' })
    schedule(run)
    if sharing.bind then
      redis.call('SET', content_key(sharing.content), run.id)
      redis.call('PEXPIREAT', content_key(sharing.content), int(run.deadline))
    end
  end
  r.status, r.ordinal, r.via = 'queued', run.ordinal, run.id
  return run.id .. ' ' .. how .. ' ' .. (how == 'hit' and int(run.finished) or '0'), run
end

local function submit(s)
  local key, idem = record_key(s.id), s.idem and P .. 'idempotency:' .. s.idem
  if redis.call('EXISTS', key) == 1 then
    local known = read(key, { 'nonce', 'plan', 'entry', 'status', 'shared' })
    if known[1] ~= s.nonce then return { 'collision' } end
    if not known[2] then return { 'gone' } end
    local created, ordinal = string.match(known[2], '^(%d+) .* (%d+) %d+$')
    return { 'accepted', created, known[3] or '', ordinal, known[4], string.match(known[5] or '', '^%S+ (%S+)') or '' }
  end
  local earlier_item = s.batch and redis.call('HGET', P .. 'batch:' .. s.batch, 'i' .. s.item)
  if earlier_item then return { 'item', earlier_item } end
  if idem then
    local means, other = meaning(idem, s.fingerprint)
    if means == 'replayed' and s.batch then is_item(s, other, 0) end
    if means then return { means, other } end
  end
  if s.moves and NOW > tonumber(s.moves) then return { 'moved' } end
  local deadline = NOW + s.plan.timeout
  local sharing, run, how = nil, nil, ''
  if s.sharing then
    local content, ttl, join, bind, age, only = string.match(s.sharing, '^(%x+) (%d+) (%d) (%d) (%-?%d+) (%d)$')
    sharing = { content = content, ttl = ttl, join = join == '1', bind = bind == '1', age = tonumber(age) }
    run, how = find(sharing, deadline)
    if only == '1' and how ~= 'hit' then return { 'uncached' } end
    how = how or 'miss'
  end
  if not run then
    local queued = redis.call('XLEN', queue_key(s.service)) + redis.call('ZCARD', waiting_key(s.service))
    if queued >= s.plan.most then return { 'full' } end
  end

  local r, shared = request(s, s.id, deadline), nil
  if sharing then shared, run = share_run(s, r, sharing, run, how) else queue(s, r) end
  store(s, r, s.plan.clocks, s.events or '-', { tenant = s.tenant, callback = s.callback, idem = s.idem, tags = s.tags, waiters = s.waiter },
    { delay = s.delay, shared = shared, batch = s.batch and s.batch .. ' ' .. s.item })
  if s.batch then open_item(s, r) end
  enroll(r, s.tenant or '', s.register, idem, s.fingerprint)
  if how == 'hit' then
    local v = read(run.key, { 'rtype', 'rstatus', 'rheaders' })
    finish(load(r.id), { status = 'succeeded', rtype = v[1] or '', rstatus = v[2] or nil, rheaders = v[3] or nil })
    r.status = 'succeeded'
  end
  return { 'accepted', int(NOW), r.entry or '', int(r.ordinal or 0), r.status, how }
end

local answers, at = {}, 2
while at <= #ARGV do
  local s = { id = ARGV[at], nonce = ARGV[at + 1], service = ARGV[at + 2], plan = read_plan(ARGV[at + 3]),
    content_type = ARGV[at + 4], headers = ARGV[at + 5], body = ARGV[at + 6] }
  local first = at + 8
  at = first + 2 * tonumber(ARGV[at + 7])
  for i = first, at - 1, 2 do s[ARGV[i]] = ARGV[i + 1] end
  local fine, answer = pcall(submit, s) -- what is wrong with one is nothing to the others
  if not fine then answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) } end
  answers[#answers + 1] = answer
end
conclude()
return answers
