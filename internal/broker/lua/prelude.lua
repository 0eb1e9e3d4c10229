-- prelude.lua stands before every script of this room, and record.lua and moves.lua behind
-- it; before those that move requests then line.lua, share.lua, dead.lua and outcome.lua.
--
-- ARGV[1] is always the prefix of the partition, e.g. "cc:{0}:"; every key
-- below carries that hash tag, so one script stays in one slot. KEYS[1] routes.
local P = ARGV[1]

local WEEK = 604800000       -- longest that a worker may have something wait or cached; what nobody goes on with is kept so long
local CALLBACK_WINDOW = 172800000 -- longest a record outlives its retention for an owed callback
local MAX_MESSAGE = 1024     -- bytes of a worker's error message that are kept
local MAX_CODE = 64          -- bytes of a worker's error code that are kept
local MAX_REPLY_HEADERS = 8192 -- bytes of the headers of a reply, as JSON; more are dropped
local SHORT = 64            -- bytes of a reply that are kept in a record that is a hash
local TOLD = 4096           -- bytes of a reply, with its headers, that are told with a wake-up
local MAX_HISTORY = 20       -- attempts that are remembered
local MAX_ASIDE = 100        -- entries kept that nobody understands
local INSTANT = 9e11         -- scores from here on are instants (in ms, since 1998), below are places in the line
local GATED = 9007199254740991 -- the score of what waits for its gate (2^53 - 1)
local MOVED = 1048576        -- bytes of bodies that one script moves, about
local FIRST_LIMIT = 64       -- entries on a stream that has a line, until a steward has looked
local WEIGHT = 4             -- in the line, of a request with normal priority
local MAX_WAITERS = 64       -- gateways; the oldest is dropped, and re-reads by itself

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- even_when_full lets a script that ends work store its outcome although Redis
-- is at maxmemory: Redis refuses a growing command only as the first write of a
-- script, and a DEL never grows. Admission keeps a fifth of the memory free for
-- this.
local function even_when_full() redis.call('DEL', P .. 'none') end

-- unless_full ends a script that takes work away before its first write where Redis
-- is at maxmemory: no worker can say that it lives then. An RPUSHX to nothing would
-- grow it, and does nothing.
local function unless_full() redis.call('RPUSHX', P .. 'none', '') end

-- hopeless is the text of an error that comes each time, since what somebody else wrote
-- stands in the place of something of ours; nil for any other, which may pass.
local function hopeless(said)
  local text = type(said) == 'table' and said.err or tostring(said)
  for _, of in ipairs({ 'WRONGTYPE', 'not an integer', 'attempt to ', 'bad argument' }) do
    if string.find(text, of, 1, true) then return text end
  end
end

-- try calls a command that nothing else is to hang on where that is hopeless.
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and not hopeless(answer) then error(answer) end
  return answer
end

-- risk calls a function that nothing else is to hang on in that case.
local function risk(f, ...)
  local fine, said = pcall(f, ...)
  if not fine and not hopeless(said) then error(said) end
end

-- int writes a whole number. To write one costs as much as a command, and most are
-- written more than once: their text is kept, by the half behind it. (By itself, a small
-- one would make an array of the table in an embedded Redis.)
local ints = {}
local function int(n)
  local text = ints[n + 0.5]
  if not text then
    text = string.format('%d', n)
    ints[n + 0.5] = text
  end
  return text
end
local function stream_ms(id) return tonumber(string.match(id, '^(%d+)')) end
local function record_key(id) return P .. 'request:' .. id end
-- What runs is named by its ID, a leg of a scatter by "<id>/<leg>": in its token,
-- in due, in its line and gate. Its worker is told the ID alone.
local function id_of(name) return string.sub(name, 1, 36) end
local function leg_of(name) return string.match(name, '/(%d+)$') end
-- named reads a token: what it names, the attempt, the nonce.
local function named(token)
  local name, attempt, nonce = string.match(token or '', '^([%x%-]+/?%d*)%.(%d+)%.(%x+)$')
  if name and (#name == 36 or string.find(name, '^[%x%-]+/%d+$') and #string.match(name, '^[^/]+') == 36) then return name, attempt, nonce end
end
local function events_key(id) return P .. 'events:' .. id end
local function reply_key(id) return P .. 'reply:' .. id end
local function queue_key(service) return P .. 'queue:' .. service end
local function waiting_key(service) return P .. 'waiting:' .. service end
local function gate_key(r) return P .. 'gate:' .. r.service .. ':' .. r.gate end
-- listing_key is the index of a tenant's requests by created, see list.lua:
-- "open", or an outcome.
local function listing_key(status, tenant) return P .. 'listing:' .. status .. ':' .. (tenant or '') end

local TERMINAL = { succeeded = 's', failed = 'f', timed_out = 't', canceled = 'c' }
