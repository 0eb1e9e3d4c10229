-- retire.lua forgets consumers of a group that are long gone: every process
-- that ever claimed leaves one behind. Atomic because a consumer that was given
-- something since would take it along.
--
-- KEYS[1] stream
-- ARGV[2] group, [3] ms of silence after which a consumer is gone
-- Returns how many were forgotten.
local consumers, n = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[2]), 0
if consumers.err then return 0 end -- no stream or no group: nothing to forget
for i = 1, #consumers do
  local c, flat = {}, consumers[i]
  for j = 1, #flat, 2 do c[flat[j]] = flat[j + 1] end
  if c.pending == 0 and c.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[2], c.name)
    n = n + 1
  end
end
return n
