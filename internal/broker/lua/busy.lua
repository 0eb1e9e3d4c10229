-- busy.lua finds the services of a partition that have entries, so that upkeep
-- need not look at each of the others: one call for all of them, however many there
-- are. Nothing depends on its being atomic.
--
-- KEYS streams of the services
-- ARGV[2] 1: also those whose group was lost, or has entries pending that somebody
--     deleted; [3] how many streams
-- Returns the places of those streams among KEYS, from 1.
local busy = {}
for i = 1, tonumber(ARGV[3]) do
  local length = redis.pcall('XLEN', KEYS[i]) -- an error is for who looks closer
  local there = type(length) == 'table' or length > 0
  if not there and ARGV[2] == '1' then
    local pending = redis.pcall('XPENDING', KEYS[i], 'workers')
    there = pending.err or pending[1] > 0
  end
  if there then busy[#busy + 1] = i end
end
return busy
