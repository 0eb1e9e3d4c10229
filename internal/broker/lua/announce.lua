-- announce.lua makes services known, all of them or none: a gateway that hears of
-- the first one of a worker has heard of them all. A script also because a full
-- Redis refuses the bare command even where it would change nothing, and a gateway
-- or a worker that starts then must be able to: it is what makes room.
--
-- KEYS[1] cc:services
-- ARGV[2 …] three for each service: its name, what is known of it, as JSON, and 1
--           to write over what is there
-- Returns how many it wrote.
redis.call('HDEL', KEYS[1], '') -- as even_when_full, in the slot of this key
local wrote = 0
for i = 2, #ARGV, 3 do
  local name, known = ARGV[i], ARGV[i + 1]
  if ARGV[i + 2] == '1' then
    redis.call('HSET', KEYS[1], name, known)
    wrote = wrote + 1
  else
    wrote = wrote + redis.call('HSETNX', KEYS[1], name, known)
  end
end
return wrote
