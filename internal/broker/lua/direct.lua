-- direct.lua accepts requests that go straight to the stream of their service, as
-- submit.lua does, and leaves to that all that is not plain: an ID or a key that is
-- known, a service that has a line or is full. Most requests are plain, and what a
-- gateway takes in hangs on what they cost Redis: so this script does once for all of
-- a kind what is the same for them.
-- Atomic and idempotent as submit.lua: where an answer was lost, the record is there.
--
-- KEYS[1] any of the partition
-- ARGV[2…] of each kind: service, plan as in submit.lua, tenant, '1' where that is to
--     be registered, content type, headers, how many requests follow; and of each of
--     them: id, nonce, body, how many options follow, name and value of each. The
--     options are trace, callback, events, tags, idem and fingerprint of submit.lua.
-- Returns {now, …}, and of each request its entry and its ordinal; '' and 0 where it is
--     left to submit.lua
local answers, dues, at = { int(NOW) }, {}, 2

-- fresh reads the requests of a kind from ARGV[at] on that are plain. The others have
-- their answer.
local function fresh(n)
  local found, seen = {}, {}
  for _ = 1, n do
    local s = { id = ARGV[at], nonce = ARGV[at + 1], body = ARGV[at + 2], at = #answers + 1 }
    local first = at + 4
    at = first + 2 * tonumber(ARGV[at + 3])
    for i = first, at - 1, 2 do s[ARGV[i]] = ARGV[i + 1] end
    s.key = record_key(s.id)
    s.binding = s.idem and P .. 'idempotency:' .. s.idem
    answers[s.at], answers[s.at + 1] = '', 0
    if redis.call('EXISTS', s.key, s.binding or s.key) == 0 and not seen[s.binding or s.id] then
      seen[s.binding or s.id] = true
      found[#found + 1] = s
    end
  end
  return found
end

while at < #ARGV do
  local service, tenant, register, content_type, headers = ARGV[at], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local timeout, start, run, lease, max, retention, backoff, most =
    string.match(ARGV[at + 1], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
  local n = tonumber(ARGV[at + 6])
  at = at + 7
  local found = fresh(n)
  if redis.call('HEXISTS', P .. 'limits', service) == 1 or
    redis.call('XLEN', queue_key(service)) + redis.call('ZCARD', waiting_key(service)) + #found > tonumber(most) then
    found = {}
  end
  if #found > 0 then
    local deadline, due = NOW + timeout, NOW + timeout -- see next_due in prelude.lua
    if start ~= '0' then due = math.min(due, NOW + start) end
    if run ~= '0' then due = math.min(due, NOW + run) end
    local clocks, open = table.concat({ int(NOW), timeout, start, run, lease, max, retention }, ' ') .. ' ', {}
    local ordinal = redis.call('HINCRBY', P .. 'counts', 'a:' .. service, #found) - #found
    for i = 1, #found do
      local s, more = found[i], {}
      ordinal = ordinal + 1
      local entry = add_entry(service, s.id, s.id .. '.1.' .. s.nonce, '1', int(deadline), lease, content_type, s.trace or '', headers, s.body)
      local function set(name, value)
        if value and value ~= '' then more[#more + 1] = name; more[#more + 1] = value end
      end
      set('tenant', tenant)
      set('callback', s.callback)
      set('idem', s.idem)
      set('tags', s.tags)
      set('trace', s.trace)
      redis.call('HSET', s.key, 'service', service, 'nonce', s.nonce, 'plan', clocks .. (s.events or '-') .. ' ' .. int(ordinal) .. ' ' .. backoff,
        'status', 'queued', 'attempt', '1', 'entry', entry, unpack(more))
      redis.call('PEXPIREAT', s.key, int(deadline + WEEK))
      if s.binding then
        redis.call('SET', s.binding, s.id .. ' ' .. s.fingerprint)
        redis.call('PEXPIREAT', s.binding, int(deadline + WEEK))
      end
      dues[#dues + 1] = int(due)
      dues[#dues + 1] = s.id
      open[2 * i - 1], open[2 * i] = int(NOW), s.id
      answers[s.at], answers[s.at + 1] = entry, ordinal
    end
    redis.call('ZADD', listing_key('open', tenant), unpack(open))
    if register == '1' then redis.call('ZADD', P .. 'tenants', int(NOW), tenant) end
  end
end
if #dues > 0 then redis.call('ZADD', P .. 'due', unpack(dues)) end
return answers
