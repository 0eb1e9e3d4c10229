-- delivered.lua settles owed callbacks. The last one of a request lets a record that
-- outlived its retention go. Atomic and idempotent: only who acknowledges or
-- deletes the intent counts it.
--
-- KEYS[1] callbacks
-- ARGV[2…] entry and id of each
-- Returns how many were not yet settled.
even_when_full()
local entries, n = {}, 0
for i = 2, #ARGV, 2 do entries[#entries + 1] = ARGV[i] end
-- Who acknowledges an intent counts it: where all were pending, none was counted yet.
local all = redis.pcall('XACK', KEYS[1], 'deliverers', unpack(entries)) == #entries
if all then redis.call('XDEL', KEYS[1], unpack(entries)) end

-- settle counts a callback of a request. One that shares nothing and has its outcome needs
-- less than load reads.
local function settle(id)
  local key = record_key(id)
  local v, f, text = read(key, { 'plan', 'finished', 'seq', 'reply', 'idem', 'shared', 'scatter' })
  if not v[1] or f and not f.owed then return end
  if v[2] and not v[6] and not v[7] then
    if f then redis.call('SET', key, (string.gsub(text, '\nowed 1', '', 1)), 'KEEPTTL')
    elseif redis.call('HINCRBY', key, 'owed', -1) > 0 then return end
    expire({ id = id, key = key, finished = tonumber(v[2]), retention = tonumber((string.match(v[1], '^%d+ %d+ %d+ %d+ %d+ %d+ (%d+)'))),
      seq = tonumber(v[3] or 0), short = v[4], idem = v[5] })
    return
  end
  local r = load(id)
  if r and owes(r, -1) <= 0 and r.finished then expire(r) end
end

for i = 2, #ARGV, 2 do
  if all or redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    n = n + 1
    settle(ARGV[i + 1])
  end
end
return n
