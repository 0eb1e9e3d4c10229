-- stand.lua is a part of direct.lua: how those of one kind stand in the line of their
-- service, where it has one.

-- What it returns has n of the kind k take the next places there, and returns how many of
-- them go straight to the stream: as limited and admit do of each, and in as few commands
-- as that takes, from what take has read. Where there are places, k has the one that they are
-- behind, and how far they are apart, and held for those who wait.
return function(k, n, length, waiting, limit, shared)
  policy(k, k.policy)
  if not limit and k.concurrency ~= '0' or not shared and k.flow ~= '' then limit = (function() include('narrow') end)()(k) end
  limit = tonumber(limit or nil)
  if not limit then return n end
  local key, last, apart = line_key(k.service), 'last:' .. k.flow, 1 / k.weight
  local line = redis.call('HMGET', key, 'served', last)
  local served = tonumber(line[1] or 0)
  local behind = math.max(served, tonumber(line[2] or 0))
  local room = waiting > 0 and #in_line(k.service, 1) > 0 and 0 or limit - length
  local through = math.max(0, math.min(room, n))
  local at, furthest = behind + through * apart, string.format('%.6f', behind + n / k.weight)
  if through > 0 and at > served then
    redis.call('HSET', key, last, furthest, 'served', through == n and furthest or string.format('%.6f', at))
  else
    redis.call('HSET', key, last, furthest)
  end
  k.behind, k.apart = behind, apart
  if through < n then k.held = { 'ZADD', waiting_key(k.service) } end
  return through
end
