-- direct.lua accepts requests that go straight to the stream of their service, or stand
-- in its line, and refuses those for whom that is full, as submit.lua does. It leaves to
-- that all that is not plain: an ID or a key that is known, or a service that has something
-- else in Redis where its stream or its line should be. Most requests are plain, and what a
-- gateway takes in hangs on what they cost Redis: so this script does once for all of a
-- kind what is the same for them.
-- Atomic and idempotent as submit.lua: where an answer was lost, the record is there.
--
-- KEYS[1] any of the partition
-- ARGV[2…] of each kind: service, plan as in submit.lua, tenant, '1' where that is to
--     be registered, policy without a gate or '', content type, headers, gateway to wake
--     or '', how many requests follow; and of each of them: id, nonce, body, how many
--     options follow, name and value of each. The options are trace, callback, events,
--     tags, idem and fingerprint of submit.lua.
-- Returns {now, …}, and of each request its entry, or '-' where it stands in the line, and
--     its ordinal or 0; 'full' and 0 where it is refused, '' and 0 where it is left to
--     submit.lua
local answers, at = { int(NOW) }, 2
local ARGV, call = ARGV, redis.call -- to look up a global costs as much as a short text

-- read reads n requests of the kind k from ARGV[at] on: where each begins, its record,
-- and its options where it has any.
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

-- fresh are the numbers of those that are plain. The others have their answer. One look
-- at all keys tells that nobody knows any of them, which is how it is nearly always.
local function fresh(k)
  local records, options, keys, found, seen = k.records, k.options, k.records, {}, {}
  local n = #records
  if next(options) then
    keys = { unpack(records) }
    for _, o in pairs(options) do keys[#keys + 1] = o.binding end
  end
  local none = call('EXISTS', unpack(keys)) == 0
  for i = 1, n do
    local record, bound = records[i], options[i] and options[i].binding
    if not seen[record] and not (bound and seen[bound]) and (none or call('EXISTS', record, bound or record) == 0) then
      seen[record] = true
      if bound then seen[bound] = true end
      found[#found + 1] = i
    end
  end
  return found
end

-- stand is the function of stand.lua, which is made when the first comes for whose service
-- there is a line: to make what it needs costs as much as a few requests.
local made
local function stand(k, n)
  if not made then made = (function() include('stand') end)() end
  return made(k, n)
end

-- more is what not every record has, of a request of the kind k with the options o; in a
-- brief record, or as the fields and values of a hash.
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

-- refuse refuses those of found for whom the service has no room.
local function refuse(k, found, room)
  for i = #found, room + 1, -1 do
    answers[k.before + 2 * found[i] - 1] = 'full'
    found[i] = nil
  end
end

-- What is done once for all kinds: what is listed, by tenant, and when they are looked at;
-- and whether any service has a limit.
local opens, looks, limits = {}, { 'ZADD', CLOCKS }, nil

-- take accepts those of the kind k that are plain, as far as the service has room.
local function take(k)
  local found = fresh(k)
  if #found == 0 then return end
  local timeout, start, run, lease, max, retention, backoff, most, concurrency =
    string.match(k.plan, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local service, stream = k.service, queue_key(k.service)
  local room = most - call('XLEN', stream) - call('ZCARD', waiting_key(service))
  if room < #found then refuse(k, found, math.max(room, 0)) end
  if #found == 0 then return end
  local through = #found
  if limits == nil then limits = call('EXISTS', P .. 'limits') == 1 end
  if k.policy ~= '' or concurrency ~= '0' or limits and call('HEXISTS', P .. 'limits', service) == 1 then
    k.concurrency, limits = concurrency, true
    through = stand(k, #found)
  end
  local deadline, due = NOW + timeout, NOW + timeout -- see next_due in moves.lua
  if start ~= '0' then due = math.min(due, NOW + start) end
  if run ~= '0' then due = math.min(due, NOW + run) end
  local clocks = table.concat({ int(NOW), timeout, start, run, lease, max, retention }, ' ') .. ' '
  local now, ends, plain, open, ids = int(NOW), int(deadline), more(k, {}), opens[k.tenant], k.ids
  local listed = #open
  k.due, backoff = int(due), ' ' .. backoff
  local last = through > 0 and call('HINCRBY', P .. 'counts', 'a:' .. service, through) - through
  local begins, records, options, before, content_type, headers = k.begins, k.records, k.options, k.before, k.content_type, k.headers
  local behind, apart, held = k.behind, k.apart, k.held
  for i = 1, #found do
    local s = found[i]
    local o, begin, key = options[s], begins[s], records[s]
    local id, nonce, body = ARGV[begin], ARGV[begin + 1], ARGV[begin + 2]
    local entry, ordinal, spot = '-', 0, behind and string.format('%.6f', behind + i * apart)
    if i <= through then
      ordinal = last + i
      entry = add_entry(stream, service, id, id .. '.1.' .. nonce, '1', ends, lease, content_type, o and o.trace or '', headers, body)
      local also = o and more(k, o) or plain
      if spot then also = also .. '\nplace ' .. spot end
      -- As brief writes it, but in one expression: each text that there is in between would be
      -- hashed, to its last byte. The answer to SETNX is a number, that to SET a table.
      call('SETNX', key, service .. ' ' .. nonce .. ' ' .. entry .. ' ' .. clocks .. (o and o.events or '') .. 'd ' .. ordinal .. backoff .. also)
    else
      call('HSET', key, 'service', service, 'nonce', nonce, 'plan', clocks .. (o and o.events or '') .. 'd 0' .. backoff,
        'status', 'queued', 'attempt', '1', 'place', spot, 'body', body, 'content_type', content_type, 'headers', headers,
        unpack(more(k, o or {}, true)))
      held[#held + 1], held[#held + 2] = spot, id
    end
    if o and o.binding then call('SET', o.binding, id .. ' ' .. o.fingerprint) end
    open[listed + 2 * i - 1], open[listed + 2 * i], ids[i] = now, id, id
    answers[before + 2 * s - 1], answers[before + 2 * s] = entry, ordinal
  end
end

-- enroll has those of the kind k that were accepted wait where they stand, and their
-- clocks watched. It is called also where something went wrong, for those before; what goes
-- wrong here must not keep the clocks of all from being watched: they end who stands nowhere.
local function enroll(k)
  if #k.ids == 0 then return end
  if k.held and #k.held > 2 then redis.pcall(unpack(k.held)) end
  looks[#looks + 1] = next_look(NOW, tonumber(k.due))
  looks[#looks + 1] = group(int(NOW), k.due, k.tenant, k.ids)
  if k.register == '1' then redis.pcall('ZADD', P .. 'tenants', int(NOW), k.tenant) end
end

-- All is read before anything is tried: in an embedded Redis, what a function has
-- assigned to a local of this chunk is not seen here any more once a pcall caught an error.
local kinds = {}
while at < #ARGV do
  local k = { service = ARGV[at], plan = ARGV[at + 1], tenant = ARGV[at + 2], register = ARGV[at + 3],
    content_type = ARGV[at + 5], headers = ARGV[at + 6], waiter = ARGV[at + 7], policy = ARGV[at + 4], ids = {} }
  opens[k.tenant] = opens[k.tenant] or { 'ZADD', listing_key('open', k.tenant) }
  local n = tonumber(ARGV[at + 8])
  at = at + 9
  read(k, n)
  kinds[#kinds + 1] = k
end
for i = 1, #kinds do
  pcall(take, kinds[i]) -- what is wrong with one service is nothing to the others
  enroll(kinds[i])
end
if #looks > 2 then
  call(unpack(looks))
  for _, open in pairs(opens) do
    if #open > 2 then call(unpack(open)) end
  end
end
return answers
