-- submit.lua accepts a request: its record, its idempotency binding and its
-- work entry come into being together or not at all. Atomic because a 202 must
-- mean all three; idempotent because the nonce tells a re-send from a collision.
--
-- KEYS[1] record   KEYS[2] idempotency binding, only with a key
-- ARGV[2] id, [3] nonce, [4] service, [5] tenant ('' for the default one),
--     [6] timeout, [7] start, [8] run, [9] lease, [10] max attempts,
--     [11] retention, [12] events, [13] callback URL or '', [14] traceparent or '',
--     [15] most entries on the stream, [16] idempotency hash or '',
--     [17] fingerprint or '', [18] ms after which the key has another home, 0 for
--     never, [19] content type, [20] headers, [21] body
-- Returns {'accepted' | 'collision' | 'full' | 'replayed' | 'mismatch' | 'moved', …}:
--     accepted: created, entry, ordinal; replayed: the ID of the earlier request
local id, nonce, service, idem = ARGV[2], ARGV[3], ARGV[4], ARGV[16]
local key = KEYS[1]

local known = redis.call('HMGET', key, 'nonce', 'plan', 'entry')
if known[1] then
  if known[1] ~= nonce then return { 'collision' } end
  local created, ordinal = string.match(known[2], '^(%d+) .* (%d+)$')
  return { 'accepted', created, known[3], ordinal }
end
if idem ~= '' then
  local bound = redis.call('GET', KEYS[2])
  local other, fingerprint = string.match(bound or '', '^(%S+) (%S+)$')
  local earlier = other and load(other)
  if earlier and not gone(earlier) then
    if fingerprint ~= ARGV[17] then return { 'mismatch' } end
    return { 'replayed', other }
  end
end
if ARGV[18] ~= '0' and NOW > tonumber(ARGV[18]) then return { 'moved' } end
if redis.call('XLEN', queue_key(service)) >= tonumber(ARGV[15]) then return { 'full' } end

local timeout = tonumber(ARGV[6])
local r = { id = id, key = key, service = service, nonce = nonce, attempt = 1, created = NOW,
  deadline = NOW + timeout, start = tonumber(ARGV[7]), run = tonumber(ARGV[8]), lease = tonumber(ARGV[9]) }
enqueue(r, ARGV[19], ARGV[14], ARGV[20], ARGV[21])
local ordinal = redis.call('HINCRBY', P .. 'counts', 'a:' .. service, 1)
local plan = table.concat({ int(NOW), ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], int(ordinal) }, ' ')
local f = { 'service', service, 'nonce', nonce, 'plan', plan, 'status', 'queued', 'attempt', '1', 'entry', r.entry }
local function set(name, value)
  if value ~= '' then f[#f + 1] = name; f[#f + 1] = value end
end
set('tenant', ARGV[5])
set('callback', ARGV[13])
set('trace', ARGV[14])
set('idem', idem)
redis.call('HSET', key, unpack(f))
redis.call('PEXPIREAT', key, int(r.deadline + WEEK))
if idem ~= '' then
  redis.call('SET', KEYS[2], id .. ' ' .. ARGV[17])
  redis.call('PEXPIREAT', KEYS[2], int(r.deadline + WEEK))
end
schedule(r)
return { 'accepted', int(NOW), r.entry, int(ordinal) }
