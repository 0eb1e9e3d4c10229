-- regulate.lua sets how many entries the stream of a service may hold, takes
-- back what is above, and releases what there is room for. Atomic because what
-- moves must be in one place, and counted once.
--
-- The limit is the least of what holds: 0 while paused; the concurrency of the
-- service; and, where flows share it, what runs now and twice the free slots, so
-- that who comes next need not wait for what came before. A service for which
-- nothing holds loses its limit once its line is empty.
--
-- KEYS[1] stream of the service
-- ARGV[2] service, [3] 'pause', 'resume' or '' for as it is, [4] concurrency or 0,
--     [5] slots of its live workers in this partition
-- Returns {limit or '', 1 where there is more to move, else 0}.
local SPARE = 8    -- entries ahead of workers that announced nothing
local BATCH = 256  -- entries taken back at once
even_when_full()
local service, concurrency, slots = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local limits = P .. 'limits'
if ARGV[3] == 'pause' then redis.call('HSET', limits, 'paused:' .. service, int(NOW)) end
if ARGV[3] == 'resume' then redis.call('HDEL', limits, 'paused:' .. service) end
local flags = redis.call('HMGET', limits, 'paused:' .. service, 'shared:' .. service)

local pending = 0
local summary = redis.pcall('XPENDING', KEYS[1], 'workers')
if not summary.err then pending = tonumber(summary[1]) end
local limit
local function least(n) limit = math.min(limit or n, n) end
if flags[1] then least(0) end
if concurrency > 0 then least(concurrency) end
if flags[2] then least(pending + math.max(SPARE, 2 * math.max(slots, pending))) end
if not limit and #in_line(service, 1) > 0 then limit = 1e9 end
if limit then redis.call('HSET', limits, service, int(limit)) else redis.call('HDEL', limits, service) end

-- take_back moves what no worker has claimed from the stream to the line, but
-- for the first spare of it, keeping its order. Returns whether there is more of
-- it: how many are on the stream does not tell, since who acknowledged by itself
-- left an entry there that is neither pending nor to be had.
local function take_back(spare)
  local delivered = last_delivered(KEYS[1])
  if not delivered then return false end
  local found, moved = redis.call('XRANGE', KEYS[1], delivered, '+', 'COUNT', spare + BATCH + 1), 0
  local skipped = 0
  for i = 1, #found do
    if found[i][1] ~= delivered then
      if skipped < spare then
        skipped = skipped + 1
      elseif moved < MOVED then
        local entry, f, flat = found[i][1], {}, found[i][2]
        for j = 1, #flat, 2 do f[flat[j]] = flat[j + 1] end
        local r = f.id and load(named(f.token) or f.id)
        if r and not TERMINAL[r.status] and r.entry == entry then
          moved = moved + #(f.body or '')
          hold(r, f, place(r))
          record_place(r)
        end
        redis.call('XDEL', KEYS[1], entry)
      else
        return true
      end
    end
  end
  return #found > spare + BATCH
end

local length = redis.call('XLEN', KEYS[1])
local spare = limit and math.max(0, limit - pending)
local more = false
if limit and length - pending > spare then
  more = take_back(spare)
else
  more = release(service)
end
conclude()
return { limit and int(limit) or '', more and 1 or 0 }
