local P = ARGV[1]

local WEIGHT = 4             -- in the line, of a request with normal priority
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
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
local ints = {}
local function int(n)
  local text = ints[n]
  if not text then
    text = string.format('%d', n)
    if n > 1e9 then ints[n] = text end
  end
  return text
end
local function record_key(id) return P .. 'request:' .. id end
local function queue_key(service) return P .. 'queue:' .. service end
local function waiting_key(service) return P .. 'waiting:' .. service end
local function listing_key(status, tenant) return P .. 'listing:' .. status .. ':' .. (tenant or '') end

local function policy(r, text)
  local weight, limit, gate, flow
  if text then weight, limit, gate, flow = string.match(text, '^(%d+) (%d+) (%S+) (.*)$') end
  r.weight, r.gate_limit, r.flow = tonumber(weight or WEIGHT), tonumber(limit or 0), flow or ''
  r.gate = gate and gate ~= '-' and gate or nil
end

local ALSO = { 'tenant', 'trace', 'callback', 'idem', 'tags', 'waiters', 'policy', 'place' } -- what may be in one that is queued
local function brief(service, nonce, entry, plan) return service .. ' ' .. nonce .. ' ' .. entry .. ' ' .. plan end
local function lines(f)
  local text = ''
  for i = 1, #ALSO do
    local value = f[ALSO[i]]
    if value and value ~= '' then text = text .. '\n' .. ALSO[i] .. ' ' .. value end
  end
  return text
end
local REPLIES = P .. 'replies'
local function add_entry(stream, service, id, token, attempt, deadline, lease, content_type, traceparent, headers, body)
  return redis.call('XADD', stream, '*', 'id', id, 'token', token, 'reply_to', REPLIES,
    'service', service, 'attempt', attempt, 'deadline', deadline, 'lease', lease, 'content_type', content_type,
    'traceparent', traceparent, 'headers', headers, 'body', body)
end
local function binding(r)
  local key = r.idem and P .. 'idempotency:' .. r.idem
  local bound = key and try('GET', key)
  if type(bound) == 'string' and string.sub(bound, 1, #r.id) == r.id then return key end
end
local function line_key(service) return P .. 'line:' .. service end
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
local LOOK = 5000 -- ms after which a group is looked at first

local CLOCKS = P .. 'clocks'
local function group(accepted, due, tenant, ids)
  return accepted .. ' ' .. due .. ' ' .. #tenant .. ' ' .. tenant .. table.concat(ids, ' ')
end
local function next_look(accepted, due) return int(math.min(due, NOW + math.max(LOOK, NOW - accepted))) end
local answers, at = { int(NOW) }, 2
local ARGV, call = ARGV, redis.call -- to look up a global costs as much as a short text
local function read(k, n)
  local begins, records, before = {}, {}, #answers
  k.begins, k.records, k.options, k.before = begins, records, {}, before
  for i = 1, n do
    begins[i], records[i] = at, record_key(ARGV[at])
    answers[before + 2 * i - 1], answers[before + 2 * i] = '', 0
    local options = ARGV[at + 3]
    at = at + 4
    if options ~= '0' then
      local o, last = {}, at + 2 * tonumber(options) - 1
      for j = at, last, 2 do o[ARGV[j]] = ARGV[j + 1] end
      o.binding = o.idem and P .. 'idempotency:' .. o.idem
      k.options[i], at = o, last + 1
    end
  end
end
local function fresh(k)
  local records, options, keys, found, seen = k.records, k.options, {}, {}, {}
  local n = #records
  for i = 1, n do keys[i] = records[i] end
  for _, o in pairs(options) do keys[#keys + 1] = o.binding end
  local none = call('EXISTS', unpack(keys)) == 0
  for i = 1, n do
    local record, binding = records[i], options[i] and options[i].binding
    if not seen[record] and not (binding and seen[binding]) and (none or call('EXISTS', record, binding or record) == 0) then
      seen[record] = true
      if binding then seen[binding] = true end
      found[#found + 1] = i
    end
  end
  return found
end
local made
local function stand(k, n)
  if not made then made = (function() local INSTANT = 9e11         -- scores from here on are instants (in ms, since 1998), below are places in the line
local FIRST_LIMIT = 64       -- entries on a stream that has a line, until a steward has looked
local function limit_of(service) return tonumber(redis.call('HGET', P .. 'limits', service) or nil) end
local function reserve(service, n)
  if n > 0 then redis.call('HSET', line_key(service), 'last:', string.format('%.6f', n / WEIGHT)) end
end
local function open_line(r)
  if r.flow ~= '' and redis.call('HSETNX', P .. 'limits', 'shared:' .. r.service, 1) == 1 and
    redis.call('HSETNX', P .. 'limits', r.service, FIRST_LIMIT) == 1 then
    reserve(r.service, redis.call('XLEN', queue_key(r.service)))
  end
end
local function in_line(service, n)
  return redis.call('ZRANGEBYSCORE', waiting_key(service), '-inf', '(' .. INSTANT, 'WITHSCORES', 'LIMIT', 0, n)
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
local function limited(service, concurrency)
  if concurrency ~= '0' and redis.call('HSETNX', P .. 'limits', service, concurrency) == 1 then
    reserve(service, redis.call('XLEN', queue_key(service)))
  end
end
return function(k, n)
  policy(k, k.policy)
  limited(k.service, k.concurrency)
  open_line(k)
  local limit = limit_of(k.service)
  if not limit then return n end
  k.behind, k.apart, k.held = places(k, n), 1 / k.weight, { 'ZADD', waiting_key(k.service) }
  local through = straight(k.service, limit, n)
  if through > 0 then serve(k.service, k.behind + through * k.apart) end
  return through
end
 end)() end
  return made(k, n)
end
local function more(k, o, hash)
  o.tenant, o.waiters, o.policy = k.tenant, k.waiter, k.policy
  if not hash then return lines(o) end
  local all = {}
  for i = 1, #ALSO do
    local value = o[ALSO[i]]
    if value and value ~= '' then all[#all + 1] = ALSO[i]; all[#all + 1] = value end
  end
  return all
end
local function take(k)
  local found = fresh(k)
  if #found == 0 then return end
  local timeout, start, run, lease, max, retention, backoff, most, concurrency =
    string.match(k.plan, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local service, stream = k.service, queue_key(k.service)
  if call('XLEN', stream) + call('ZCARD', waiting_key(service)) + #found > tonumber(most) then return end
  local through = #found
  if k.policy ~= '' or concurrency ~= '0' or call('HEXISTS', P .. 'limits', service) == 1 then
    k.concurrency = concurrency
    through = stand(k, #found)
  end
  local deadline, due = NOW + timeout, NOW + timeout -- see next_due in moves.lua
  if start ~= '0' then due = math.min(due, NOW + start) end
  if run ~= '0' then due = math.min(due, NOW + run) end
  local clocks = table.concat({ int(NOW), timeout, start, run, lease, max, retention }, ' ') .. ' '
  local now, ends, plain, open, ids = int(NOW), int(deadline), more(k, {}), k.open, k.ids
  k.due, backoff = int(due), ' ' .. backoff
  local last = through > 0 and call('HINCRBY', P .. 'counts', 'a:' .. service, through) - through
  local begins, records, options, before, content_type, headers = k.begins, k.records, k.options, k.before, k.content_type, k.headers
  local behind, apart, held = k.behind, k.apart, k.held
  for i = 1, #found do
    local s = found[i]
    local o, begin, key = options[s], begins[s], records[s]
    local id, nonce, body = ARGV[begin], ARGV[begin + 1], ARGV[begin + 2]
    local entry, ordinal, place = '-', 0, behind and string.format('%.6f', behind + i * apart)
    if i <= through then
      ordinal = last + i
      entry = add_entry(stream, service, id, id .. '.1.' .. nonce, '1', ends, lease, content_type, o and o.trace or '', headers, body)
      local also = o and more(k, o) or plain
      if place then also = also .. '\nplace ' .. place end
      call('SET', key, brief(service, nonce, entry, clocks .. (o and o.events or '') .. 'd ' .. ordinal .. backoff) .. also)
    else
      call('HSET', key, 'service', service, 'nonce', nonce, 'plan', clocks .. (o and o.events or '') .. 'd 0' .. backoff,
        'status', 'queued', 'attempt', '1', 'place', place, 'body', body, 'content_type', content_type, 'headers', headers,
        unpack(more(k, o or {}, true)))
      held[#held + 1], held[#held + 2] = place, id
    end
    if o and o.binding then call('SET', o.binding, id .. ' ' .. o.fingerprint) end
    open[2 * i + 1], open[2 * i + 2], ids[i] = now, id, id
    answers[before + 2 * s - 1], answers[before + 2 * s] = entry, ordinal
  end
end
local function enroll(k)
  if #k.ids == 0 then return end
  if k.held and #k.held > 2 then call(unpack(k.held)) end
  call('ZADD', CLOCKS, next_look(NOW, tonumber(k.due)), group(int(NOW), k.due, k.tenant, k.ids))
  call(unpack(k.open))
  if k.register == '1' then call('ZADD', P .. 'tenants', int(NOW), k.tenant) end
end
local kinds = {}
while at < #ARGV do
  local k = { service = ARGV[at], plan = ARGV[at + 1], tenant = ARGV[at + 2], register = ARGV[at + 3],
    policy = ARGV[at + 4], content_type = ARGV[at + 5], headers = ARGV[at + 6], waiter = ARGV[at + 7],
    ids = {}, open = { 'ZADD', listing_key('open', ARGV[at + 2]) } }
  local n = tonumber(ARGV[at + 8])
  at = at + 9
  read(k, n)
  kinds[#kinds + 1] = k
end
for i = 1, #kinds do
  pcall(take, kinds[i]) -- what is wrong with one service is nothing to the others
  enroll(kinds[i])
end
return answers
