-- delivered.lua settles owed callbacks. The last one of a request lets a record that
-- outlived its retention go. Atomic and idempotent: only who acknowledges or
-- takes away the intent counts it.
--
-- KEYS[1] callbacks   KEYS[2] due
-- ARGV[2…] entry and id of each, of what a settle handed over the member of due
-- Returns how many were not yet settled.
even_when_full()
local entries, members, keys, n = {}, {}, {}, 0
for i = 2, #ARGV, 2 do
  n = n + 1
  local list = string.find(ARGV[i], CALLBACK, 1, true) and members or entries
  list[#list + 1], keys[n] = ARGV[i], record_key(ARGV[i + 1])
end
-- Who acknowledges an intent counts it: where all were pending, none was counted yet.
local all = true
if #entries > 0 then
  all = redis.pcall('XACK', KEYS[1], 'deliverers', unpack(entries)) == #entries
  if all then redis.call('XDEL', KEYS[1], unpack(entries)) end
end
local there = {} -- whether a member of due is, false once it was counted
if #members > 0 then
  local found = redis.call('ZMSCORE', KEYS[2], unpack(members))
  for i = 1, #members do there[members[i]] = found[i] or false end
  redis.call('ZREM', KEYS[2], unpack(members))
end

-- open tells whether an intent was not yet settled.
local function open(entry)
  local was = there[entry]
  if was ~= nil then
    there[entry] = false
    return was
  end
  return all or redis.call('XDEL', KEYS[1], entry) == 1
end

local texts = redis.call('MGET', unpack(keys)) -- of those that are brief, which one callback leaves so

-- brief_settled is settle of a record that is brief, and owes one callback at most.
local function brief_settled(id, key, text)
  local reply = string.find(text, '\n\n', 1, true)
  local head = reply and string.sub(text, 1, reply - 1) or text
  local from, to = string.find(head, '\nowed 1', 1, true)
  local retention, finished = string.match(head, '^%S+ %x+ %S+ %d+ %d+ %d+ %d+ %d+ %d+ (%d+) %S+ %d+ %d+ (%d+) %d+')
  if not from or not finished then return end
  local over = finished + retention
  if over <= NOW then redis.call('DEL', key)
  else redis.call('SET', key, string.sub(text, 1, from - 1) .. string.sub(text, to + 1), 'PXAT', int(over)) end
  if not reply then redis.call('PEXPIREAT', reply_key(id), int(over)) end
  local bound = binding({ id = id, idem = string.match(head, '\nidem ([^\n]*)') })
  if bound then redis.call('PEXPIREAT', bound, int(over)) end
end

-- settle counts a callback of a request. One that shares nothing and has its outcome needs
-- less than load reads.
local function settle(id, key, text)
  if text then return brief_settled(id, key, text) end
  local v = redis.call('HMGET', key, 'plan', 'finished', 'seq', 'reply', 'idem', 'shared', 'scatter')
  if not v[1] then return end
  if v[2] and not v[6] and not v[7] then
    if redis.call('HINCRBY', key, 'owed', -1) > 0 then return end
    expire({ id = id, key = key, finished = tonumber(v[2]), retention = tonumber((string.match(v[1], '^%d+ %d+ %d+ %d+ %d+ %d+ (%d+)'))),
      seq = tonumber(v[3] or 0), short = v[4], idem = v[5] })
    return
  end
  local r = load(id)
  if r and owes(r, -1) <= 0 and r.finished then expire(r) end
end

local counted = 0
for i = 1, n do
  if open(ARGV[2 * i]) then
    counted = counted + 1
    risk(settle, ARGV[2 * i + 1], keys[i], texts[i]) -- its intent is gone: what is wrong with one is nothing to the others
  end
end
return counted
