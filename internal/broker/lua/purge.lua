-- purge.lua forgets dead letters, oldest first. Atomic so that nothing of one is
-- left behind, and that one which is redriven meanwhile stays.
--
-- KEYS[1] graves; routes only
-- ARGV[2] tenant ('' for the default one), [3] service or '', [4] error code or '', [5] most
-- Returns {how many were forgotten, how many are left}.
even_when_full()
local key = dead_key(ARGV[2], ARGV[3], ARGV[4])
local page = redis.call('ZRANGE', key, 0, tonumber(ARGV[5]) - 1)
for i = 1, #page do
  local id, service, code = dead_letter(page[i])
  local r = load(id)
  if r then forget(r) else unbury(id, ARGV[2], service, code) end
end
return { #page, redis.call('ZCARD', key) }
