-- tidy.lua forgets the counts of records that have expired, and returns what
-- is left: the correlation table by terminal status. Atomic so that no count
-- is dropped that a settle has just raised.
--
-- KEYS[1] kept
-- Returns {status, count, …}.
local sums, flat = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  local status, slot = string.match(flat[i], '^(%S+):(%d+)$')
  if tonumber(slot) * 300000 <= NOW then redis.call('HDEL', KEYS[1], flat[i])
  else sums[status] = (sums[status] or 0) + tonumber(flat[i + 1]) end
end
local out = {}
for status, n in pairs(sums) do
  out[#out + 1] = status
  out[#out + 1] = n
end
return out
