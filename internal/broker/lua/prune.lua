-- prune.lua takes out of a tenant's listing indexes what is no longer there: the
-- oldest of them always, since most are forgotten in the order in which they
-- came, and a share of the others each time. It also bounds the indexes of
-- outcomes. Atomic so that a tenant is dropped only while it has nothing.
--
-- KEYS[1] tenants of the partition, [2…] indexes of the tenant, the first of the
--     open requests, which are all listed
-- ARGV[2] tenant, [3] most members of an index, [4] most looked at in one,
--     [5…] rank to go on from, one each
-- Returns {rank to go on from next time, one each}.
local tenant, most, share = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- look takes out the forgotten ones among those of these ranks.
local function look(key, from, to)
  local ids, forgotten = redis.call('ZRANGE', key, from, to), {}
  for i = 1, #ids do
    if redis.call('EXISTS', record_key(ids[i])) == 0 then forgotten[#forgotten + 1] = ids[i] end
  end
  if #forgotten > 0 then redis.call('ZREM', key, unpack(forgotten)) end
  return #ids, #forgotten
end

local nexts, left = {}, 0
for k = 2, #ARGV - 3 do
  local key, n = KEYS[k], redis.call('ZCARD', KEYS[k])
  if k > 2 and n > most then
    redis.call('ZREMRANGEBYRANK', key, 0, n - most - 1)
    n = most
  end
  local looked = 0
  repeat
    local seen, gone = look(key, 0, 99)
    n, looked = n - gone, looked + seen
  until gone == 0 or gone < seen or looked >= 10 * share
  local from = tonumber(ARGV[k + 3])
  if from >= n then from = 0 end
  if n > 0 then
    local seen, gone = look(key, from, from + share - 1)
    n, from = n - gone, from + seen - gone
  end
  left = left + n
  nexts[k - 1] = int(from)
end
-- A process registers a tenant once a minute: one that is younger may be used.
local registered = tonumber(redis.call('ZSCORE', KEYS[1], tenant) or nil)
if left == 0 and registered and NOW - registered > 120000 then redis.call('ZREM', KEYS[1], tenant) end
return nexts
