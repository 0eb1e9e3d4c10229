-- decide.lua looks at what is due: start, run and total timeouts, back-offs
-- that are over, callbacks to try again. Atomic because each decision is a
-- compare-and-set on the record, so a steward that comes late does no harm.
--
-- Nothing due at T is decided while a reply that Redis took by T is unsettled.
--
-- KEYS[1] due
-- ARGV[2] most decisions, and outcomes after which it stops
-- Returns {'settle' | 'more' | 'done', next due in ms or '', report lines}; lines
-- as in settle.lua, also "release id service" where a delay is over.
-- Mostly nothing is due.
do
  local first, time = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2], redis.call('TIME')
  if not first or tonumber(first) > time[1] * 1000 + math.floor(time[2] / 1000) then
    return { 'done', first and string.format('%d', tonumber(first)) or '', {} }
  end
end
even_when_full()
local report = {}
local function note(kind, id, service) report[#report + 1] = kind .. ' ' .. id .. ' ' .. service end

-- decide returns 'settle' where a reply must be settled first: the clock that
-- ran out may have done so after the instant at which r was to be looked at.
local function decide(id)
  local r = load(id)
  if not r or TERMINAL[r.status] then
    redis.call('ZREM', KEYS[1], id)
    if not r then note('orphan', id, '-') end
    return
  end
  claim(r)
  local at, reason = clock(r)
  if NOW >= at then
    if unsettled(at) then return 'settle' end
    report[#report + 1] = time_out(r, reason)
  elseif r.release and NOW >= r.release then
    readmit(r)
    note('release', r.id, r.service)
  else
    schedule(r)
  end
end

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(NOW), 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[2]))
local verdict = #due / 2 >= tonumber(ARGV[2]) and 'more' or 'done'
for i = 1, #due, 2 do
  local member, at = due[i], tonumber(due[i + 1])
  local id, kind, number, attempt = string.match(member, '^callback (%S+) (%S+) (%d+) (%d+)$')
  if id then
    redis.call('XADD', P .. 'callbacks', '*', 'id', id, 'type', kind, 'number', number, 'attempt', attempt)
    redis.call('ZREM', KEYS[1], member)
  elseif unsettled(at) or decide(member) == 'settle' then
    verdict = 'settle'
    break
  elseif ended >= tonumber(ARGV[2]) then
    verdict = 'more'
    break
  end
end
conclude()
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return { verdict, first[2] and int(tonumber(first[2])) or '', report }
