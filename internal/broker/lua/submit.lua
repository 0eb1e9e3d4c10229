-- submit.lua accepts a request: its record, its idempotency binding and its
-- work entry, or its place among the waiting, come into being together or not at
-- all. Atomic because a 202 must mean all three; idempotent because the nonce
-- tells a re-send from a collision. One that may share a run, see share.lua, gets a
-- run of its own only where there is none to share.
--
-- KEYS[1] record   KEYS[2] idempotency binding, only with a key
-- ARGV[2] id, [3] nonce, [4] service, [5] tenant ('' for the default one),
--     [6] timeout, [7] start, [8] run, [9] lease, [10] max attempts,
--     [11] retention, [12] events, [13] callback URL or '', [14] traceparent or '',
--     [15] most requests that are queued or wait, [16] idempotency hash or '',
--     [17] fingerprint or '', [18] ms after which the key has another home, 0 for
--     never, [19] back-off, [20] delay, [21] policy or '' (see prelude.lua),
--     [22] content type, [23] headers, [24] body, [25] tags, separated by spaces,
--     [26] 1 to register the tenant for prune.lua, [27] concurrency of the service or 0,
--     [28] '' or "content ttl join bind age only": the hash that it may share a run by,
--     the ms for which the reply is cached where the worker says nothing, whether it
--     may join an open run (1), whether others may join its own (1), ms of the oldest
--     cached reply that will do, -1 for none, and whether nothing else will do (1),
--     [29] batch that it is an item of or '', [30] number in it, [31] ms until which
--     the batch is remembered at least
-- Returns {'accepted' | 'collision' | 'full' | 'replayed' | 'item' | 'mismatch' | 'moved' |
--     'uncached', …}: accepted: created, entry or '', ordinal or 0, status, and miss,
--     shared, hit or ''; replayed: the ID of the earlier request; item: the same, of one
--     that this item was before, whether or not it is still known
local id, nonce, service, idem = ARGV[2], ARGV[3], ARGV[4], ARGV[16]
local key = KEYS[1]

local known = redis.call('HMGET', key, 'nonce', 'plan', 'entry', 'status', 'shared')
if known[1] then
  if known[1] ~= nonce then return { 'collision' } end
  local created, ordinal = string.match(known[2], '^(%d+) .* (%d+) %d+$')
  return { 'accepted', created, known[3] or '', ordinal, known[4], string.match(known[5] or '', '^%S+ (%S+)') or '' }
end
local batch = ARGV[29] ~= '' and P .. 'batch:' .. ARGV[29]
-- is_item notes which request the item of a batch is, where its batch may be sent
-- again, and keeps the batch that long.
local function is_item(request, until_ms)
  redis.call('HSET', batch, 'ends', ARGV[31])
  if idem ~= '' then redis.call('HSET', batch, 'i' .. ARGV[30], request) end
  local left = redis.call('PTTL', batch)
  redis.call('PEXPIREAT', batch, int(math.max(NOW + left, tonumber(ARGV[31]), until_ms)))
end
local earlier_item = batch and redis.call('HGET', batch, 'i' .. ARGV[30])
if earlier_item then return { 'item', earlier_item } end
if idem ~= '' then
  local means, other = meaning(KEYS[2], ARGV[17])
  if means == 'replayed' and batch then is_item(other, 0) end
  if means then return { means, other } end
end
if ARGV[18] ~= '0' and NOW > tonumber(ARGV[18]) then return { 'moved' } end
local deadline = NOW + tonumber(ARGV[6])
local sharing, run, how = nil, nil, ''
if ARGV[28] ~= '' then
  local content, ttl, join, bind, age, only = string.match(ARGV[28], '^(%x+) (%d+) (%d) (%d) (%-?%d+) (%d)$')
  sharing = { content = content, ttl = ttl, join = join == '1', bind = bind == '1', age = tonumber(age) }
  run, how = find(sharing, deadline)
  if only == '1' and how ~= 'hit' then return { 'uncached' } end
  how = how or 'miss'
end
if not run then
  local queued = redis.call('XLEN', queue_key(service)) + redis.call('ZCARD', waiting_key(service))
  if queued >= tonumber(ARGV[15]) then return { 'full' } end
end

-- plan_of is the plan of a record, see prelude.lua.
local function plan_of(r, timeout, start, limit, events)
  return table.concat({ int(NOW), timeout, start, limit, ARGV[9], ARGV[10], ARGV[11], events, int(r.ordinal or 0), ARGV[19] }, ' ')
end

-- store writes a record.
local function store(r, plan, more)
  local f = { 'service', service, 'nonce', nonce, 'plan', plan, 'status', r.status, 'attempt', '1' }
  local function set(name, value)
    if value and value ~= '' then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('entry', r.entry)
  set('release', r.release and int(r.release))
  set('place', r.place and string.format('%.6f', r.place))
  set('trace', ARGV[14])
  set('policy', ARGV[21])
  for i = 1, #more, 2 do set(more[i], more[i + 1]) end
  redis.call('HSET', r.key, unpack(f))
  redis.call('PEXPIREAT', r.key, int(r.deadline + WEEK))
end

-- queue has r, which runs, go where it may.
local function queue(r)
  local delay = tonumber(ARGV[20])
  if delay > 0 then r.release = NOW + delay end
  policy(r, ARGV[21])
  accept(r, ARGV[27], { content_type = ARGV[22], traceparent = ARGV[14], headers = ARGV[23], body = ARGV[24] })
end

local function request(name, ends)
  return { id = name, key = record_key(name), service = service, nonce = nonce, attempt = 1, created = NOW, ordinal = 0,
    deadline = ends, start = tonumber(ARGV[7]), run = tonumber(ARGV[8]), lease = tonumber(ARGV[9]) }
end

local r = request(id, deadline)
local share = ''
if not sharing then
  queue(r)
else
  if run then
    redis.call('HINCRBY', run.key, 'sharers', 1)
    if how == 'shared' then redis.call('HSET', run.key, 'parents', (run.parents ~= '' and run.parents .. ' ' or '') .. id) end
  else -- it may go on for others after its own end, so the worker is given more time
    local time = tonumber(ARGV[6]) * (sharing.bind and 2 or 1)
    run = request(id .. '/0', NOW + time)
    run.start, run.run = 0, 0 -- those who share it have their own
    queue(run)
    store(run, plan_of(run, int(time), '0', '0', '-'), { 'parents', id, 'sharing', sharing.content .. ' ' .. sharing.ttl, 'sharers', '1' })
    schedule(run)
    if sharing.bind then
      redis.call('SET', content_key(sharing.content), run.id)
      redis.call('PEXPIREAT', content_key(sharing.content), int(run.deadline))
    end
  end
  r.status, r.ordinal, r.via = 'queued', run.ordinal, run.id
  share = run.id .. ' ' .. how .. ' ' .. (how == 'hit' and int(run.finished) or '0')
end
store(r, plan_of(r, ARGV[6], ARGV[7], ARGV[8], ARGV[12]),
  { 'tenant', ARGV[5], 'delay', ARGV[20] ~= '0' and ARGV[20] or '', 'callback', ARGV[13], 'idem', idem, 'tags', ARGV[25],
    'shared', share, 'batch', batch and ARGV[29] .. ' ' .. ARGV[30] })
if batch then
  local open = P .. 'open:' .. ARGV[29]
  is_item(id, r.deadline + WEEK)
  redis.call('HINCRBY', batch, 'accepted', 1)
  redis.call('SADD', open, id)
  redis.call('PEXPIREAT', open, int(NOW + math.max(redis.call('PTTL', open), r.deadline + WEEK - NOW)))
end
enroll(r, ARGV[5], ARGV[26], idem ~= '' and KEYS[2], ARGV[17])
if how == 'hit' then
  local v = redis.call('HMGET', run.key, 'rtype', 'rstatus', 'rheaders')
  finish(load(id), { status = 'succeeded', rtype = v[1] or '', rstatus = v[2] or nil, rheaders = v[3] or nil })
  r.status = 'succeeded'
  conclude()
end
return { 'accepted', int(NOW), r.entry or '', int(r.ordinal or 0), r.status, how }
