-- stand.lua is a part of direct.lua: how those of one kind stand in the line of their
-- service, where it has one.

-- What it returns has n of the kind k take the next places there, and returns how many of
-- them go straight to the stream, as admit does of each. Where there are places, k has the
-- one that they are behind, and how far they are apart, and held for those who wait.
return function(k, n)
  policy(k, k.policy)
  limited(k.service, k.concurrency)
  open_line(k)
  local limit = limit_of(k.service)
  if not limit then return n end
  k.behind, k.apart, k.held = places(k, n), 1 / k.weight, { 'ZADD', waiting_key(k.service) }
  local through = straight(k.service, limit, n)
  if through > 0 then serve(k.service, k.behind + through * k.apart) end
  return through
end
