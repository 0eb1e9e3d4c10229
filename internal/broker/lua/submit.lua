-- submit.lua accepts a request: its record, its idempotency binding and its
-- work entry, or its place among the waiting, come into being together or not at
-- all. Atomic because a 202 must mean all three; idempotent because the nonce
-- tells a re-send from a collision.
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
--     [28] batch that it is an item of or '', [29] number in it, [30] ms until which
--     the batch is remembered at least
-- Returns {'accepted' | 'collision' | 'full' | 'replayed' | 'item' | 'mismatch' | 'moved', …}:
--     accepted: created, entry or '', ordinal or 0, status; replayed: the ID of
--     the earlier request; item: the same, of one that this item was before, whether
--     or not it is still known
local id, nonce, service, idem = ARGV[2], ARGV[3], ARGV[4], ARGV[16]
local key = KEYS[1]

local known = redis.call('HMGET', key, 'nonce', 'plan', 'entry', 'status')
if known[1] then
  if known[1] ~= nonce then return { 'collision' } end
  local created, ordinal = string.match(known[2], '^(%d+) .* (%d+) %d+$')
  return { 'accepted', created, known[3] or '', ordinal, known[4] }
end
local batch = ARGV[28] ~= '' and P .. 'batch:' .. ARGV[28]
-- is_item notes which request the item of a batch is, where its batch may be sent
-- again, and keeps the batch that long.
local function is_item(request, until_ms)
  redis.call('HSET', batch, 'ends', ARGV[30])
  if idem ~= '' then redis.call('HSET', batch, 'i' .. ARGV[29], request) end
  local left = redis.call('PTTL', batch)
  redis.call('PEXPIREAT', batch, int(math.max(NOW + left, tonumber(ARGV[30]), until_ms)))
end
local earlier_item = batch and redis.call('HGET', batch, 'i' .. ARGV[29])
if earlier_item then return { 'item', earlier_item } end
if idem ~= '' then
  local bound = redis.call('GET', KEYS[2])
  local other, fingerprint = string.match(bound or '', '^(%S+) (%S+)$')
  local earlier = other and load(other)
  if earlier and not gone(earlier) then
    if fingerprint ~= ARGV[17] then return { 'mismatch' } end
    if batch then is_item(other, 0) end
    return { 'replayed', other }
  end
end
if ARGV[18] ~= '0' and NOW > tonumber(ARGV[18]) then return { 'moved' } end
local queued = redis.call('XLEN', queue_key(service)) + redis.call('ZCARD', waiting_key(service))
if queued >= tonumber(ARGV[15]) then return { 'full' } end

local delay = tonumber(ARGV[20])
local r = { id = id, key = key, service = service, nonce = nonce, attempt = 1, created = NOW, ordinal = 0,
  deadline = NOW + tonumber(ARGV[6]), start = tonumber(ARGV[7]), run = tonumber(ARGV[8]), lease = tonumber(ARGV[9]) }
if delay > 0 then r.release = NOW + delay end
policy(r, ARGV[21])
limited(service, ARGV[27])
if r.gate then
  local last = redis.call('ZRANGE', gate_key(r), -1, -1, 'WITHSCORES')[2]
  redis.call('ZADD', gate_key(r), int(tonumber(last or 0) + 1), id)
end
admit(r, { content_type = ARGV[22], traceparent = ARGV[14], headers = ARGV[23], body = ARGV[24] })
local plan = table.concat({ int(NOW), ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], int(r.ordinal), ARGV[19] }, ' ')
local f = { 'service', service, 'nonce', nonce, 'plan', plan, 'status', r.status, 'attempt', '1' }
local function set(name, value)
  if value and value ~= '' then f[#f + 1] = name; f[#f + 1] = value end
end
set('entry', r.entry)
set('tenant', ARGV[5])
set('callback', ARGV[13])
set('trace', ARGV[14])
set('idem', idem)
set('tags', ARGV[25])
set('policy', ARGV[21])
set('release', r.release and int(r.release))
set('place', r.place and string.format('%.6f', r.place))
set('batch', batch and ARGV[28] .. ' ' .. ARGV[29])
redis.call('HSET', key, unpack(f))
redis.call('PEXPIREAT', key, int(r.deadline + WEEK))
if batch then
  local open = P .. 'open:' .. ARGV[28]
  is_item(id, r.deadline + WEEK)
  redis.call('HINCRBY', batch, 'accepted', 1)
  redis.call('SADD', open, id)
  redis.call('PEXPIREAT', open, int(NOW + math.max(redis.call('PTTL', open), r.deadline + WEEK - NOW)))
end
if idem ~= '' then
  redis.call('SET', KEYS[2], id .. ' ' .. ARGV[17])
  redis.call('PEXPIREAT', KEYS[2], int(r.deadline + WEEK))
end
schedule(r)
redis.call('ZADD', listing_key('open', ARGV[5]), int(NOW), id)
if ARGV[26] == '1' then redis.call('ZADD', P .. 'tenants', int(NOW), ARGV[5]) end
return { 'accepted', int(NOW), r.entry or '', int(r.ordinal), r.status }
