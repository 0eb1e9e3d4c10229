-- status.lua reads where a request stands, and registers a gateway for
-- wake-ups in the same step, so that no change falls between the two.
--
-- KEYS[1] record
-- ARGV[2] id, [3] gateway to register or '', [4] largest reply body returned
-- Returns the view (see prelude.lua), or nil where the record is gone.
local v = view(ARGV[2], tonumber(ARGV[4]))
if not v then return false end
if ARGV[3] ~= '' and not TERMINAL[v[4]] then
  even_when_full()
  local known, n = {}, 0
  for gateway in string.gmatch(redis.call('HGET', KEYS[1], 'waiters') or '', '%S+') do
    if gateway == ARGV[3] then return v end
    known[#known + 1] = gateway
  end
  known[#known + 1] = ARGV[3]
  while #known > MAX_WAITERS do table.remove(known, 1) end
  redis.call('HSET', KEYS[1], 'waiters', table.concat(known, ' '))
end
return v
