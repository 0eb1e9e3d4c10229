-- present.lua says that a gateway does upkeep, and how many partitions it has, and
-- tells who else does. Atomic so that who was silent for too long is counted by
-- nobody from one instant on.
--
-- KEYS[1] cc:gateways
-- ARGV[2] gateway, [3] partitions that it has, [4] ms of silence after which a
--     gateway does not count
-- Returns {gateway, partitions, gateway, partitions …}, this one among them.
redis.call('HDEL', KEYS[1], '-') -- as even_when_full, in the slot of this key
local silence, there = tonumber(ARGV[4]), {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local seen, has = string.match(all[i + 1], '^(%d+) (%d+)$')
  if all[i] ~= ARGV[2] then
    if seen and NOW - seen <= silence then
      there[#there + 1], there[#there + 2] = all[i], has
    else
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[2], int(NOW) .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], silence)
there[#there + 1], there[#there + 2] = ARGV[2], ARGV[3]
return there
