-- lapse.lua takes work away from workers that fell silent, see outcome.lua.
-- Atomic because between adding the copy and deleting the old entry the request
-- would run twice with one token, the other way round it would be lost.
--
-- KEYS[1] stream of the service
-- ARGV[2] service, [3] shortest lease in ms, [4] most entries
-- Returns {'settle' | 'more' | 'done' | 'nogroup', report lines}; lines as in settle.lua,
-- also "lapse id service".
-- Mostly nobody is silent.
do
  local silent = redis.pcall('XPENDING', KEYS[1], 'workers', 'IDLE', ARGV[3], '-', '+', 1)
  if not silent.err and #silent == 0 then return { 'done', {} } end
end
local service = ARGV[2]
local report = {}
local function note(kind, id) report[#report + 1] = kind .. ' ' .. id .. ' ' .. service end

local silent = redis.pcall('XPENDING', KEYS[1], 'workers', 'IDLE', ARGV[3], '-', '+', tonumber(ARGV[4]))
if silent.err then
  if string.find(silent.err, 'NOGROUP', 1, true) then return { 'nogroup', report } end
  return redis.error_reply(silent.err)
end

if #silent > 0 then unless_full() end

local function look(entry, idle)
  local found = { entry = entry, service = service }
  local f = content(found)
  local r = f and peek(named(f.token) or f.id or '')
  if not r or TERMINAL[r.status] or r.entry ~= entry then return note(disown(found, f)) end
  if idle < r.lease then return end
  if unsettled(NOW - idle + r.lease) then return 'settle' end
  report[#report + 1] = lapse(unfold(r), f)
end

local verdict = 'done'
if #silent >= tonumber(ARGV[4]) then verdict = 'more' end
for i = 1, #silent do
  verdict = look(silent[i][1], silent[i][3]) or verdict
  if verdict == 'settle' then break end
end
conclude()
if verdict == 'more' and #report == 0 then verdict = 'done' end -- all of them have longer leases
return { verdict, report }
