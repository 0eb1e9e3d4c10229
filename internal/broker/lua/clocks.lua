-- clocks.lua knows how requests that were accepted together are waited for together.
-- Most are answered long before any of their clocks runs out, so a place in due for each
-- of them, which is given up again soon, would cost more than it tells. The zset clocks
-- has a member for all that one script accepted of a kind, by the instant at which it is
-- to be looked at. decide.lua takes out of it who has been answered, and what is left
-- waits on: no longer than until the first of its clocks runs out, and no longer than it
-- has been there, so that who was answered is remembered twice as long as it was open, at
-- most, or for LOOK. Whose clock ran out is decided by its record, as one that is in due.
--
-- A clock of Redis that steps back makes a look late by the step, but none later than
-- that of a place in due, which is at the same instant.

local LOOK = 5000 -- ms after which a group is looked at first

local CLOCKS = P .. 'clocks'

-- group is the member for requests of a tenant that were accepted at an instant, and of
-- which something may be to decide at the instant due. All it takes is text.
local function group(accepted, due, tenant, ids)
  return table.concat({ accepted, due, #tenant, tenant .. ids[1], unpack(ids, 2) }, ' ')
end

-- next_look is when to look at a group again.
local function next_look(accepted, due) return int(math.min(due, NOW + math.max(LOOK, NOW - accepted))) end
