-- status.lua reads where requests stand, and registers a gateway for wake-ups in the
-- same step, so that no change falls between the two. It takes many, since much of
-- what a script costs is to begin it.
--
-- KEYS[1] any record of the partition
-- ARGV[2] largest reply body returned, [3] gateway, or '' where none is to be
--     registered, [4…] of each request: id, and '1' to register the gateway with it,
--     '2' to see a record that is kept only for a callback
-- Returns of each the view (see outcome.lua), nil where the record is gone, or what is
--     wrong with it, as a text; fewer than were asked for where the replies are large: the
--     rest is to be asked for again
local MOST = 1048576 -- bytes of replies, and what one more has: not all of a batch in memory at once
local inline, gateway, bytes = tonumber(ARGV[2]), ARGV[3], 0

-- register writes nothing before it has to: a Redis that takes no writes is still read.
local writes = false -- it did
local function register(r)
  local known, n = r.waiters or '', 0
  for other in string.gmatch(known, '%S+') do
    if other == gateway then return end
    n = n + 1
  end
  if n >= MAX_WAITERS then known = string.match(known, '^%S+ (.*)$') end
  if not writes then
    even_when_full()
    writes = true
  end
  await(r, n > 0 and known .. ' ' .. gateway or gateway)
end

local function status(id, attach)
  local v, r = view(id, inline, attach == '2')
  if not v then return false end
  if attach == '1' and not TERMINAL[v[4]] then register(r) end
  for i = 29, #v, 13 do bytes = bytes + #v[i] end -- its reply, and those of its legs
  return v
end

local answers = {}
for i = 4, #ARGV, 2 do
  local fine, answer = pcall(status, ARGV[i], ARGV[i + 1]) -- what is wrong with one is nothing to the others
  if not fine then answer = type(answer) == 'table' and answer.err or tostring(answer) end
  answers[#answers + 1] = answer
  if bytes >= MOST then break end
end
return answers
