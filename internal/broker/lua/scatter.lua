-- scatter.lua accepts a scatter: its record, its idempotency binding and all its
-- legs, each with its work entry or its place among the waiting, come into being
-- together or not at all. Atomic and idempotent as submit.lua.
--
-- KEYS[1] record   KEYS[2] idempotency binding, only with a key
-- ARGV[2] id, [3] nonce, [4] tenant ('' for the default one), [5] timeout,
--     [6] retention, [7] events, [8] callback URL or '', [9] traceparent or '',
--     [10] idempotency hash or '', [11] fingerprint or '', [12] ms after which the key
--     has another home, 0 for never, [13] delay, [14] tags, separated by spaces,
--     [15] 1 to register the tenant for prune.lua, [16] how many must succeed,
--     [17] stall timeout or 0, [18] 1 where less will do at the end, [19] how many
--     bodies, [20…] the bodies; then of each leg: service, start, run, lease, max
--     attempts, back-off, most requests that are queued or wait, policy or '',
--     content type, headers, number of its body, concurrency of the
--     service or 0
-- Returns as submit.lua; full: the service
local id, nonce, idem, delay = ARGV[2], ARGV[3], ARGV[10], tonumber(ARGV[13])
local key, bodies = KEYS[1], tonumber(ARGV[19])
local PARTS, first = 12, 20 + bodies
local legs_n = (#ARGV - first + 1) / PARTS

local known = read(key, { 'nonce', 'plan', 'status' })
if known[1] then
  if known[1] ~= nonce then return { 'collision' } end
  if not known[2] then return { 'gone' } end
  return { 'accepted', string.match(known[2], '^%d+'), '', '0', known[3] }
end
if idem ~= '' then
  local means, other = meaning(KEYS[2], ARGV[11])
  if means then return { means, other } end
end
if ARGV[12] ~= '0' and NOW > tonumber(ARGV[12]) then return { 'moved' } end
for i = first, #ARGV, PARTS do
  local queued = redis.call('XLEN', queue_key(ARGV[i])) + redis.call('ZCARD', waiting_key(ARGV[i]))
  if queued >= tonumber(ARGV[i + 6]) then return { 'full', ARGV[i] } end
end

local deadline = NOW + tonumber(ARGV[5])
local status = delay > 0 and 'scheduled' or 'queued'
local function set(f, name, value)
  if value and value ~= '' then f[#f + 1] = name; f[#f + 1] = value end
end

local minimal = string.find(ARGV[7], 'm', 1, true) and '-m' or '-' -- no leg's reply is kept where the whole's is not

local function add(leg, at)
  local name = id .. '/' .. leg
  local r = { id = name, key = record_key(name), service = ARGV[at], nonce = nonce, attempt = 1, created = NOW, ordinal = 0,
    deadline = deadline, start = tonumber(ARGV[at + 1]), run = tonumber(ARGV[at + 2]), lease = tonumber(ARGV[at + 3]) }
  if delay > 0 then r.release = NOW + delay end
  policy(r, ARGV[at + 7])
  accept(r, ARGV[at + 11], { content_type = ARGV[at + 8], traceparent = ARGV[9], headers = ARGV[at + 9], body = ARGV[19 + tonumber(ARGV[at + 10])] })
  local plan = table.concat({ int(NOW), ARGV[5], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[6], minimal, int(r.ordinal), ARGV[at + 5] }, ' ')
  local f = { 'service', r.service, 'nonce', nonce, 'plan', plan, 'status', r.status, 'attempt', '1', 'parents', id }
  set(f, 'entry', r.entry)
  set(f, 'trace', ARGV[9])
  set(f, 'policy', ARGV[at + 7])
  set(f, 'release', r.release and int(r.release))
  set(f, 'place', r.place and string.format('%.6f', r.place))
  redis.call('HSET', r.key, unpack(f))
  schedule(r)
end

local scatter = { int(legs_n), ARGV[16], ARGV[17], ARGV[18], '0', '0', int(NOW + delay), '0' }
local f = { 'service', '*', 'nonce', nonce, 'status', status, 'attempt', '1', 'scatter', table.concat(scatter, ' '),
  'plan', table.concat({ int(NOW), ARGV[5], '0', '0', '0', '1', ARGV[6], ARGV[7], '0', '0' }, ' ') }
set(f, 'tenant', ARGV[4])
set(f, 'callback', ARGV[8])
set(f, 'trace', ARGV[9])
set(f, 'idem', idem)
set(f, 'tags', ARGV[14])
redis.call('HSET', key, unpack(f))
for leg = 1, legs_n do add(leg, first + PARTS * (leg - 1)) end
enroll(load(id), ARGV[4], ARGV[15], idem ~= '' and KEYS[2], ARGV[11])
return { 'accepted', int(NOW), '', '0', status }
