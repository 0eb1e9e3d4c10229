-- delivered.lua settles owed callbacks. The last one of a request lets a record that
-- outlived its retention go. Atomic and idempotent: only who deletes the intent
-- counts it.
--
-- KEYS[1] callbacks
-- ARGV[2…] entry and id of each
-- Returns how many were still there.
even_when_full()
local entries, n = {}, 0
for i = 2, #ARGV, 2 do entries[#entries + 1] = ARGV[i] end
redis.pcall('XACK', KEYS[1], 'deliverers', unpack(entries))
for i = 2, #ARGV, 2 do
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    n = n + 1
    local r = load(ARGV[i + 1])
    if r and owes(r, -1) <= 0 and r.finished then expire(r) end
  end
end
return n
