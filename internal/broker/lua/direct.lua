-- direct.lua accepts requests that go straight to the stream of their service, as
-- submit.lua does, and leaves to that all that is not plain: an ID or a key that is
-- known, a service that has a line, is full, or has something else in Redis where its
-- stream should be. Most requests are plain, and what a
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

-- read reads n requests of a kind from ARGV[at] on.
local function read(n)
  local all = {}
  for i = 1, n do
    local s = { id = ARGV[at], nonce = ARGV[at + 1], body = ARGV[at + 2], at = #answers + 1 }
    local first = at + 4
    at = first + 2 * tonumber(ARGV[at + 3])
    for j = first, at - 1, 2 do s[ARGV[j]] = ARGV[j + 1] end
    s.key = record_key(s.id)
    s.binding = s.idem and P .. 'idempotency:' .. s.idem
    answers[s.at], answers[s.at + 1] = '', 0
    all[i] = s
  end
  return all
end

-- fresh are those of them that are plain. The others have their answer.
local function fresh(all)
  local found, seen = {}, {}
  for i = 1, #all do
    local s = all[i]
    if redis.call('EXISTS', s.key, s.binding or s.key) == 0 and not seen[s.binding or s.id] then
      seen[s.binding or s.id] = true
      found[#found + 1] = s
    end
  end
  return found
end

-- take accepts those of the kind k that are plain.
local function take(k)
  local found = fresh(k.all)
  if #found == 0 then return end
  local timeout, start, run, lease, max, retention, backoff, most =
    string.match(k.plan, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
  if redis.call('HEXISTS', P .. 'limits', k.service) == 1 or
    redis.call('XLEN', queue_key(k.service)) + redis.call('ZCARD', waiting_key(k.service)) + #found > tonumber(most) then
    return
  end
  local deadline, due = NOW + timeout, NOW + timeout -- see next_due in prelude.lua
  if start ~= '0' then due = math.min(due, NOW + start) end
  if run ~= '0' then due = math.min(due, NOW + run) end
  local clocks, open = table.concat({ int(NOW), timeout, start, run, lease, max, retention }, ' ') .. ' ', {}
  local ordinal = redis.call('HINCRBY', P .. 'counts', 'a:' .. k.service, #found) - #found
  for i = 1, #found do
    local s, more = found[i], {}
    ordinal = ordinal + 1
    local entry = add_entry(k.service, s.id, s.id .. '.1.' .. s.nonce, '1', int(deadline), lease, k.content_type, s.trace or '', k.headers, s.body)
    local function set(name, value)
      if value and value ~= '' then more[#more + 1] = name; more[#more + 1] = value end
    end
    set('tenant', k.tenant)
    set('callback', s.callback)
    set('idem', s.idem)
    set('tags', s.tags)
    set('trace', s.trace)
    redis.call('HSET', s.key, 'service', k.service, 'nonce', s.nonce, 'plan', clocks .. (s.events or '-') .. ' ' .. int(ordinal) .. ' ' .. backoff,
      'status', 'queued', 'attempt', '1', 'entry', entry, unpack(more))
    redis.call('PEXPIREAT', s.key, int(deadline + WEEK))
    if s.binding then
      redis.call('SET', s.binding, s.id .. ' ' .. s.fingerprint)
      redis.call('PEXPIREAT', s.binding, int(deadline + WEEK))
    end
    dues[#dues + 1], dues[#dues + 2] = int(due), s.id
    open[2 * i - 1], open[2 * i] = int(NOW), s.id
    answers[s.at], answers[s.at + 1] = entry, ordinal
  end
  redis.call('ZADD', listing_key('open', k.tenant), unpack(open))
  if k.register == '1' then redis.call('ZADD', P .. 'tenants', int(NOW), k.tenant) end
end

-- All is read before anything is tried: in an embedded Redis, what a function has
-- assigned to a local of this chunk is not seen here any more once a pcall caught an error.
local kinds = {}
while at < #ARGV do
  local k = { service = ARGV[at], plan = ARGV[at + 1], tenant = ARGV[at + 2], register = ARGV[at + 3],
    content_type = ARGV[at + 4], headers = ARGV[at + 5] }
  local n = tonumber(ARGV[at + 6])
  at = at + 7
  k.all = read(n)
  kinds[#kinds + 1] = k
end
for i = 1, #kinds do pcall(take, kinds[i]) end -- what is wrong with one service is nothing to the others
if #dues > 0 then redis.call('ZADD', P .. 'due', unpack(dues)) end
return answers
