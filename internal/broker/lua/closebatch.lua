-- closebatch.lua notes in which partitions a batch has items, beside those that are
-- known. Atomic because the same call may be answered by two gateways at once.
--
-- KEYS[1] home of the batch
-- ARGV[2] numbers of partitions, separated by spaces
-- Returns 1, or 0 where the batch is gone.
local known = redis.call('HMGET', KEYS[1], 'created', 'partitions')
if not known[1] then return 0 end
local all = known[2] or '+'
for p in string.gmatch(ARGV[2], '%d+') do
  if not string.find(' ' .. string.sub(all, 2) .. ' ', ' ' .. p .. ' ', 1, true) then
    all = all .. (all == '+' and '' or ' ') .. p
  end
end
redis.call('HSET', KEYS[1], 'partitions', all)
return 1
