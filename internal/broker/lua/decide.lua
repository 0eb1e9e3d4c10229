-- decide.lua looks at what is due: start, run and total timeouts, back-offs
-- that are over, callbacks to try again. Atomic because each decision is a
-- compare-and-set on the record, so a steward that comes late does no harm.
--
-- Nothing due at T is decided while a reply that Redis took by T is unsettled.
--
-- KEYS[1] due, KEYS[2] clocks
-- ARGV[2] most decisions, and outcomes after which it stops, [3] most groups of clocks
--     that are looked at
-- Returns {'settle' | 'more' | 'done', next due in ms or '', report lines}; lines
-- as in settle.lua, also "release id service" where a delay is over.
-- Mostly nothing is due.
do
  local first = math.min(tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or math.huge),
    tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2] or math.huge))
  local time = redis.call('TIME')
  if first > time[1] * 1000 + math.floor(time[2] / 1000) then
    return { 'done', first < math.huge and string.format('%d', first) or '', {} }
  end
end
even_when_full()
local report, budget = {}, tonumber(ARGV[2])
local function note(kind, id, service) report[#report + 1] = kind .. ' ' .. id .. ' ' .. service end

-- move returns 'settle' where a reply must be settled first: the clock that
-- ran out may have done so after the instant at which r was to be looked at.
local function move(id)
  local r = peek(id)
  if not r or TERMINAL[r.status] then
    redis.call('ZREM', KEYS[1], id)
    if not r then note('orphan', id, '-') end
    return
  end
  claim(r)
  local at, reason = clock(r)
  if NOW >= at then
    if unsettled(at) then return 'settle' end
    report[#report + 1] = time_out(unfold(r), reason)
  elseif r.release and NOW >= r.release then
    readmit(unfold(r))
    note('release', r.id, r.service)
  else
    schedule(r)
  end
end

-- decide is move, and later again where that can't be: it would stop this script each time.
local function decide(id)
  local fine, said = pcall(move, id)
  if fine then return said end
  redis.call('ZADD', KEYS[1], int(NOW + (hopeless(said) and 5000 or error(said))), id)
end

-- keep has those of ids wait together whom a group, the member, is left with.
local function keep(member, at, accepted, due, tenant, ids)
  local left = #ids > 0 and group(int(accepted), int(due), tenant, ids)
  if left then redis.call('ZADD', KEYS[2], at, left) end
  if left ~= member then redis.call('ZREM', KEYS[2], member) end
end

local decisions = 0 -- about who waited together

-- look looks at a group of clocks: who is still open, and whose clock ran out. Returns
-- 'more' where it had to stop, and 'settle' as decide.
local function look(member)
  local accepted, due, length, rest = string.match(member, '^(%d+) (%d+) (%d+) (.*)$')
  accepted, due, length = tonumber(accepted), tonumber(due), tonumber(length)
  local tenant, ids, open = string.sub(rest, 1, length), {}, {}
  for id in string.gmatch(string.sub(rest, length + 1), '%S+') do ids[#ids + 1] = id end
  local listed = try('ZMSCORE', listing_key('open', tenant), unpack(ids))
  for i = 1, #ids do
    if listed.err or listed[i] then open[#open + 1] = ids[i] end
  end
  local stopped
  while NOW >= due and #open > 0 and not stopped do
    stopped = (ended >= budget or decisions >= budget) and 'more' or decide(open[#open])
    if not stopped then
      open[#open] = nil
      decisions = decisions + 1
    end
  end
  keep(member, stopped and int(due) or next_look(accepted, due), accepted, due, tenant, open)
  return stopped
end

local groups = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(NOW), 'LIMIT', 0, tonumber(ARGV[3]))
local verdict = #groups >= tonumber(ARGV[3]) and 'more' or 'done'
for i = 1, #groups do
  local stopped = look(groups[i])
  if stopped then
    verdict = stopped
    break
  end
end

-- What is in due has its turn whatever the groups still want.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(NOW), 'WITHSCORES', 'LIMIT', 0, budget)
if #due / 2 >= budget and verdict == 'done' then verdict = 'more' end
for i = 1, #due, 2 do
  local member, at = due[i], tonumber(due[i + 1])
  local id, kind, number, attempt = string.match(member, '^' .. CALLBACK .. '(%S+) (%S+) (%d+) (%d+)$')
  if id then
    redis.call('XADD', P .. 'callbacks', '*', 'id', id, 'type', kind, 'number', number, 'attempt', attempt)
    redis.call('ZREM', KEYS[1], member)
  elseif unsettled(at) or decide(member) == 'settle' then
    verdict = 'settle'
    break
  elseif ended >= budget then
    verdict = verdict == 'settle' and verdict or 'more'
    break
  end
end
conclude()
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local looked = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if looked and (not first or tonumber(looked) < tonumber(first)) then first = looked end
return { verdict, first and int(tonumber(first)) or '', report }
