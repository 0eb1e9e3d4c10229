-- tally.lua reads what a batch has in one partition, and registers a gateway for
-- wake-ups in the same step.
--
-- KEYS[1] batch
-- ARGV[2] id, [3] gateway to register or '', [4] how many outcomes are known here,
--     [5] 1 for the open IDs as well
-- Returns {accepted, succeeded, failed, timed_out, canceled, created, items, partitions,
--     now}, outcomes after the known ones, open IDs; or nil where there is nothing.
local v = redis.call('HMGET', KEYS[1], 'accepted', 'succeeded', 'failed', 'timed_out', 'canceled', 'created', 'items', 'partitions', 'waiters')
if not v[1] and not v[6] then return false end
local open = redis.call('SCARD', P .. 'open:' .. ARGV[2])
if ARGV[3] ~= '' and open > 0 then
  local waiters = v[9] or ''
  if not string.find(' ' .. waiters .. ' ', ' ' .. ARGV[3] .. ' ', 1, true) then
    even_when_full()
    local known = {}
    for gateway in string.gmatch(waiters .. ' ' .. ARGV[3], '%S+') do known[#known + 1] = gateway end
    while #known > MAX_WAITERS do table.remove(known, 1) end
    redis.call('HSET', KEYS[1], 'waiters', table.concat(known, ' '))
  end
end
local counts = {}
for i = 1, 8 do counts[i] = v[i] or '' end
counts[9] = int(NOW)
return { counts, redis.call('LRANGE', P .. 'outcomes:' .. ARGV[2], ARGV[4], -1),
  ARGV[5] == '1' and redis.call('SMEMBERS', P .. 'open:' .. ARGV[2]) or {} }
