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
--     [5] slots of its live workers in this partition, [6] until when it was looked
--     whether it is paused, in µs: a pause that this partition heard of since is another
-- Returns {limit or '', 1 where there is more to move, else 0, 1 while paused, else 0}.
local SPARE = 8    -- entries ahead of workers that announced nothing
local BATCH = 256  -- entries taken back at once
local READ = 67108864 -- bytes of entries that are passed over to get at those to take back
even_when_full()
local service, concurrency, slots = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local limits = P .. 'limits'
local instant = time[1] * 1000000 + time[2] -- within a millisecond there may be both
if ARGV[3] == 'pause' then redis.call('HSET', limits, 'paused:' .. service, int(instant)) end
if ARGV[3] == 'resume' then
  local since = tonumber(redis.call('HGET', limits, 'paused:' .. service) or 0)
  -- One that is still to come was before the clock was set back, or by another one.
  if since < tonumber(ARGV[6]) or since > instant then redis.call('HDEL', limits, 'paused:' .. service) end
end
local flags = redis.call('HMGET', limits, 'paused:' .. service, 'shared:' .. service, service)

local pending = 0
local summary = redis.pcall('XPENDING', KEYS[1], 'workers')
if not summary.err then pending = tonumber(summary[1]) end
local limit
local function least(n) limit = math.min(limit or n, n) end
if flags[1] then least(0) end
if concurrency > 0 then least(concurrency) end
local firm = limit
if flags[2] then least(pending + math.max(SPARE, 2 * math.max(slots, pending))) end
if not limit and #in_line(service, 1) > 0 then limit = 1e9 end
local length = redis.call('XLEN', KEYS[1])
if limit and not flags[3] then reserve(service, length - pending) end
if limit and flags[3] ~= int(limit) then -- a write may have to be synced before Redis goes on
  redis.call('HSET', limits, service, int(limit))
elseif not limit and flags[3] then
  redis.call('HDEL', limits, service)
end

-- back is where r goes that is taken back from the stream: to the place that it
-- had, or, where it was there before there were places, to the next of those
-- that were kept for it. So it stays before all that came later, however often it
-- is taken back.
local function back(r)
  local had = redis.call('HGET', r.key, 'place')
  if had then return tonumber(had) end
  local key = line_key(service)
  local v = redis.call('HMGET', key, 'served', 'back', 'last:' .. r.flow)
  r.place = math.max(tonumber(v[1] or 0), tonumber(v[2] or 0)) + 1 / r.weight
  redis.call('HSET', key, 'back', string.format('%.6f', r.place),
    'last:' .. r.flow, string.format('%.6f', math.max(r.place, tonumber(v[3] or 0))))
  return r.place
end

-- take_back moves what no worker has claimed from the stream to the line, but
-- for the first spare of it, keeping its order. Returns whether there may be more
-- of it: how many are on the stream does not tell, since who acknowledged by
-- itself left an entry there that is neither pending nor to be had. It reads entry
-- by entry: many large ones at once would not fit into the memory of a script.
local function take_back(spare)
  local at = last_delivered(KEYS[1])
  if not at then return false end
  local moved, read, n, more = 0, 0, 0, true
  local first
  while n < BATCH and moved < MOVED do
    local found = redis.call('XRANGE', KEYS[1], following(at), '+', 'COUNT', 1)[1]
    if not found or read > READ then
      more = false
      break
    end
    local f, flat = {}, found[2]
    for j = 1, #flat, 2 do f[flat[j]] = flat[j + 1] end
    local size = #(f.body or '')
    at = found[1]
    if spare > 0 then
      spare, read = spare - 1, read + size
    else
      local r = f.id and peek(named(f.token) or f.id)
      if r and not TERMINAL[r.status] and r.entry == at then
        local place = back(unfold(r))
        first = math.min(first or place, place)
        hold(r, f, place)
        record_place(r)
      end
      redis.call('XDEL', KEYS[1], at)
      moved, n = moved + size, n + 1
    end
  end
  if n > 0 then count('a', service, -n) end -- what was not claimed
  -- Nor was it served: who comes now is no later than what comes back.
  local served = tonumber(redis.call('HGET', line_key(service), 'served') or 0)
  if first and first < served then redis.call('HSET', line_key(service), 'served', string.format('%.6f', first)) end
  return more
end

-- A limit that follows the workers goes up and down with them: what is on the
-- stream already stays there, unless it is far too much. The other limits are
-- promises.
local spare = limit and math.max(0, limit - pending)
local ahead = length - pending
local more = false
if limit and ahead > spare and (limit == firm or ahead > 2 * spare) then
  more = take_back(spare)
else
  more = release(service, limit)
end
conclude()
return { limit and int(limit) or '', more and 1 or 0, flags[1] and 1 or 0 }
