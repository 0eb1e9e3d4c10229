-- direct.lua accepts requests that go straight to the stream of their service, or stand
-- in its line, and refuses those for whom that is full, as submit.lua does. It leaves to
-- that all that is not plain: an ID or a key that is known, or a service that has something
-- else in Redis where its stream or its line should be. Most requests are plain, and what a
-- gateway takes in hangs on what they cost Redis: so this script does once for all of a
-- kind what is the same for them, and makes what few need only for those.
-- Atomic and idempotent as submit.lua: where an answer was lost, the record is there.
--
-- KEYS[1] any of the partition
-- ARGV[2…] of each kind: service, plan as in submit.lua, tenant, '1' where that is to
--     be registered, policy without a gate or '', content type, headers, gateway to wake
--     or '', how many requests follow and how many of them have options; id, nonce and body
--     of each; and of each that has options: which it is, how many, name and value of each.
--     The options are trace, callback, events, tags, idem and fingerprint of submit.lua. No
--     two of a kind have the same ID or the same idem.
-- Returns words: now; and of each kind the ordinal of who went before, and of each of its
--     requests its entry, 'line' where it stands there, 'full' where it is refused, 'left'
--     where it is left to submit.lua. The ordinals of those with an entry follow on each other.
local now = string.format('%d', NOW)
local ARGV, call = ARGV, redis.call -- to look up a global costs as much as a short text

-- Tables are made with room for what a lone request puts there: each time that one grows,
-- it is made anew.
local answers, at = { now, nil, nil }, 2

-- What is done once for all kinds: what is listed, by tenant, and when they are looked at.
local opens, looks = {}, { 'ZADD', CLOCKS, nil, nil }

-- take accepts those of n requests that are plain, as far as the service has room. Their
-- kind begins at ARGV[h], and its answer at answers[k.at]. k gets what is to be done for
-- those who were accepted: ids to watch, from due on; stored by MSET; held by ZADD.
local function take(k, h, n, options)
  local service, tenant, rules, content_type, headers, waiter = ARGV[h], ARGV[h + 2], ARGV[h + 4], ARGV[h + 5], ARGV[h + 6], ARGV[h + 7]
  local stream, prefix, first, keys = queue_key(service), record_key(''), h + 7, { nil, nil, nil }
  for i = 1, n do keys[i] = prefix .. ARGV[first + 3 * i] end
  if options then
    for _, o in pairs(options) do keys[#keys + 1] = o.binding end
  end
  local clocks, timeout, start, run, lease, backoff, most, concurrency =
    string.match(ARGV[h + 1], '^((%d+) (%d+) (%d+) (%d+) %d+ %d+) (%d+) (%d+) (%d+)$')

  -- One look at all keys tells that nobody knows any of them, that nobody waits, and that
  -- no service has a limit, which is how it is nearly always; or that this one has.
  local last = #keys
  keys[last + 1], keys[last + 2] = waiting_key(service), P .. 'limits'
  local there, limit, shared = call('EXISTS', unpack(keys)), nil, nil
  if there > 0 then
    limit, shared = unpack(call('HMGET', P .. 'limits', service, 'shared:' .. service))
    if limit or shared then there = there - 1 end
  end
  local length, waiting, some = call('XLEN', stream), 0, nil
  if there > 0 or most - length < n then
    local sift = (function() include('sift') end)()
    some, waiting = sift(keys, n, options, service, most - length, k.at)
    n = #some
    if n == 0 then return end
  end
  local through = n
  if limit or rules ~= '' or concurrency ~= '0' then
    local stand = (function() include('stand') end)()
    k.service, k.policy, k.concurrency = service, rules, concurrency
    through = stand(k, n, length, waiting, limit, shared)
  end
  local more, plain
  if options or k.held then more = (function() include('more') end)() end
  if tenant .. waiter .. rules ~= '' then -- as lines writes them
    plain = (tenant == '' and '' or '\ntenant ' .. tenant) .. (waiter == '' and '' or '\nwaiters ' .. waiter) .. (rules == '' and '' or '\npolicy ' .. rules)
  end

  local deadline, due = NOW + timeout, NOW + timeout -- see next_due in moves.lua
  if start ~= '0' then due = math.min(due, NOW + start) end
  if run ~= '0' then due = math.min(due, NOW + run) end
  local ends = string.format('%d', deadline)
  k.due, k.ends = due, due == deadline and ends or string.format('%d', due)
  local from, ordinal = ' ' .. now .. ' ' .. clocks .. ' ', 0
  backoff = ' ' .. backoff
  if through > 0 then
    ordinal = call('HINCRBY', P .. 'counts', 'a:' .. service, through) - through
    answers[k.at] = string.format('%d', ordinal) -- which costs half of what Lua's own way does
  end
  local ids, stored, open = k.ids, k.stored, opens[tenant]
  local listed, held, behind, apart = #open, k.held, k.behind, k.apart
  for i = 1, n do
    local s = some and some[i] or i
    local begin, o, key, entry = first + 3 * s, options and options[s], keys[s], 'line'
    local id, nonce, body = ARGV[begin], ARGV[begin + 1], ARGV[begin + 2]
    local spot = behind and string.format('%.6f', behind + i * apart)
    if i <= through then
      ordinal = ordinal + 1
      entry = add_entry(stream, service, id, id .. '.1.' .. nonce, '1', ends, lease, content_type, o and o.trace or '', headers, body)
      local also = o and more(o, tenant, rules, waiter) or plain or ''
      if spot then also = also .. '\nplace ' .. spot end
      -- As brief writes it, but in one expression: each text that there is in between would be
      -- hashed, to its last byte.
      stored[2 * i] = key
      stored[2 * i + 1] = service .. ' ' .. nonce .. ' ' .. entry .. from .. (o and o.events or '') .. 'd ' .. string.format('%d', ordinal) .. backoff .. also
    else
      call('HSET', key, 'service', service, 'nonce', nonce, 'plan', now .. ' ' .. clocks .. ' ' .. (o and o.events or '') .. 'd 0' .. backoff,
        'status', 'queued', 'attempt', '1', 'place', spot, 'body', body, 'content_type', content_type, 'headers', headers,
        unpack(more(o or {}, tenant, rules, waiter, true)))
      held[#held + 1], held[#held + 2] = spot, id
    end
    if o and o.binding then call('SET', o.binding, id .. ' ' .. o.fingerprint) end
    open[listed + 2 * i - 1], open[listed + 2 * i], ids[i] = now, id, id
    answers[k.at + s] = entry
  end
end

-- Where something goes wrong with one service, that is nothing to the others, and those who
-- were accepted before are as all others. What goes wrong with who waits must not keep the
-- clocks of all from being watched: they end who stands nowhere. (In an embedded Redis, what
-- a function has assigned to a local of this chunk is not seen here any more once a pcall
-- caught an error.)
while at < #ARGV do
  local h, n, tenant, options, k = at, tonumber(ARGV[at + 8]), ARGV[at + 2], nil, { at = #answers + 1, ids = { nil }, stored = { 'MSET', nil, nil }, due = false, ends = false }
  at = h + 10 + 3 * n
  if ARGV[h + 9] ~= '0' then options = {} end
  for _ = 1, options and tonumber(ARGV[h + 9]) or 0 do
    local o, last = {}, at + 2 * tonumber(ARGV[at + 1])
    for i = at + 2, last, 2 do o[ARGV[i]] = ARGV[i + 1] end
    o.binding = o.idem and P .. 'idempotency:' .. o.idem
    options[tonumber(ARGV[at])], at = o, last + 2
  end
  opens[tenant] = opens[tenant] or { 'ZADD', listing_key('open', tenant), nil, nil }
  answers[k.at] = '0'
  if not pcall(take, k, h, n, options) then
    for i = k.at + 1, k.at + n do answers[i] = answers[i] or 'left' end
  end
  if #k.stored > 1 then call(unpack(k.stored)) end
  if k.held and #k.held > 2 then redis.pcall(unpack(k.held)) end
  if #k.ids > 0 then
    looks[#looks + 1] = string.format('%d', math.min(k.due, NOW + LOOK))
    looks[#looks + 1] = group(now, k.ends, tenant, k.ids)
    if ARGV[h + 3] == '1' then redis.pcall('ZADD', P .. 'tenants', now, tenant) end
  end
end
if #looks > 2 then
  call(unpack(looks))
  for _, open in pairs(opens) do
    if #open > 2 then call(unpack(open)) end
  end
end
return table.concat(answers, ' ')
