-- detach.lua takes a gateway off the list that is woken about a request.
-- Atomic because the list is one value that others change as well.
--
-- KEYS[1] record
-- ARGV[2] id, [3] gateway
-- Returns 1 where the gateway was on the list, else 0.
local r, left, found = peek(ARGV[2]), {}, 0
for gateway in string.gmatch(r and r.waiters or '', '%S+') do
  if gateway == ARGV[3] then found = 1 else left[#left + 1] = gateway end
end
if found == 1 then
  even_when_full()
  await(r, table.concat(left, ' '))
end
return found
