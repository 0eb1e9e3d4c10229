-- sift.lua is a part of direct.lua: who is plain, where not all are.

-- What it returns has the keys of n requests, of which some have options, as take looked at
-- them, how much room the stream has, and where their answers are. It answers those who are
-- known, and those for whom the service has no room, and returns the numbers of the others,
-- and how many wait.
return function(keys, n, options, service, room, at)
  local waiting, some, none = redis.call('ZCARD', waiting_key(service)), {}, redis.call('EXISTS', unpack(keys, 1, #keys - 2)) == 0
  for i = 1, n do
    local bound = options and options[i] and options[i].binding
    local known = not none and redis.call('EXISTS', keys[i], bound or keys[i]) > 0
    if not known and #some < room - waiting then
      some[#some + 1] = i
    else
      answers[at + i] = known and 'left' or 'full'
    end
  end
  return some, waiting
end
