-- sift.lua is a part of direct.lua: who is plain, where not all are.

-- What it returns has the keys of n requests, of which some have options, as take looked at
-- them, and where their answers are. It answers those who are known, and those for whom the
-- service has no room, and returns the numbers of the others, and whether there is a limit
-- for the service.
return function(keys, n, options, service, most, at)
  local narrow = redis.call('HEXISTS', P .. 'limits', service) == 1
  local room = most - redis.call('XLEN', queue_key(service)) - redis.call('ZCARD', waiting_key(service))
  local some, none = {}, redis.call('EXISTS', unpack(keys, 1, #keys - 2)) == 0
  for i = 1, n do
    local bound = options and options[i] and options[i].binding
    local known = not none and redis.call('EXISTS', keys[i], bound or keys[i]) > 0
    if not known and #some < room then
      some[#some + 1] = i
    else
      answers[at + i] = known and 'left' or 'full'
    end
  end
  return some, narrow
end
