-- line.lua knows how requests wait, and who goes next. There is one mechanism:
-- a request for which nothing holds goes straight to the stream; any other waits
-- in its partition and is admitted to the stream when it may.
--
-- What holds a request back, in this order:
--   its gate     an ordering or concurrency key lets so many in at once, in the
--                order accepted: zset gate:<service>:<gate> of IDs by their turn
--   an instant   delay or back-off: due by decide.lua
--   the limit    of its service: how many entries the stream may hold, waiting or
--                running; see regulate.lua. No limit: no line.
--
-- The line is fair by start-time fair queueing (Goyal, Vin, Cheng 1996): each
-- flow, a tenant at one priority, gets places 1/weight apart, and never before
-- the place that was served last. Where there is a limit, who goes straight to
-- the stream has a place too: it is where it goes if it is taken back.

local function limit_of(service) return tonumber(redis.call('HGET', P .. 'limits', service) or nil) end
local function line_key(service) return P .. 'line:' .. service end

-- places has n of the flow of r stand next in the line, 1/weight apart, and returns the
-- place that they stand behind.
local function places(r, n)
  local key = line_key(r.service)
  local served, last = unpack(redis.call('HMGET', key, 'served', 'last:' .. r.flow))
  local behind = math.max(tonumber(served or 0), tonumber(last or 0))
  redis.call('HSET', key, 'last:' .. r.flow, string.format('%.6f', behind + n / r.weight))
  return behind
end

-- reserve leaves room in the line for what stands on the stream without a place,
-- n entries of the flow without a name: they came before there was a limit, and
-- who comes later goes behind them.
local function reserve(service, n)
  if n > 0 then places({ service = service, flow = '', weight = WEIGHT }, n) end
end

-- open_line gives a service a line as soon as there is a flow to be fair to; a
-- steward adapts the limit to the workers, see regulate.lua.
local function open_line(r)
  if r.flow ~= '' and redis.call('HSETNX', P .. 'limits', 'shared:' .. r.service, 1) == 1 and
    redis.call('HSETNX', P .. 'limits', r.service, FIRST_LIMIT) == 1 then
    reserve(r.service, redis.call('XLEN', queue_key(r.service)))
  end
end

-- in_line returns up to n of those who stand in the line, first come first, with
-- their places.
local function in_line(service, n)
  return redis.call('ZRANGEBYSCORE', waiting_key(service), '-inf', '(' .. INSTANT, 'WITHSCORES', 'LIMIT', 0, n)
end

-- close_line forgets the places of a line in which nobody stands, and that
-- nobody left for the stream.
local function close_line(service)
  if redis.call('EXISTS', line_key(service)) == 1 and redis.call('XLEN', queue_key(service)) == 0 and #in_line(service, 1) == 0 then
    redis.call('DEL', line_key(service))
  end
end

-- place is where r goes in the line. One that had its turn before and comes
-- back, by a retry, goes to the front.
local function place(r)
  if r.attempt == 1 then
    r.place = places(r, 1) + 1 / r.weight
  else
    r.place = tonumber(redis.call('HGET', line_key(r.service), 'served') or 0)
  end
  return r.place
end

-- straight is how many of n the limit of their service lets go to the stream: none
-- where somebody stands in the line.
local function straight(service, limit, n)
  local room = limit - redis.call('XLEN', queue_key(service))
  if room <= 0 or #in_line(service, 1) > 0 then return 0 end
  return math.min(room, n)
end

-- serve says that the place at went to the stream.
local function serve(service, at)
  if at > tonumber(redis.call('HGET', line_key(service), 'served') or 0) then
    redis.call('HSET', line_key(service), 'served', string.format('%.6f', at))
  end
end

-- hold has r wait with the content c, nil where it is parked already.
local function hold(r, c, score)
  if c then park(r, c) end
  r.entry, r.status = nil, r.release and 'scheduled' or 'queued'
  redis.call('ZADD', waiting_key(r.service), string.format('%.6f', score), r.id)
end

-- limited has the concurrency of a service hold from its first request on, before
-- a steward has looked. '0' is none.
local function limited(service, concurrency)
  if concurrency ~= '0' and redis.call('HSETNX', P .. 'limits', service, concurrency) == 1 then
    reserve(service, redis.call('XLEN', queue_key(service)))
  end
end

-- let_in tells whether the gate of r lets it in: it is among the first there.
local function let_in(r)
  if not r.gate then return true end
  local rank = redis.call('ZRANK', gate_key(r), r.id)
  return not rank or rank < r.gate_limit
end

-- admit puts r on the stream, or has it wait for what holds it back. c is its
-- content, nil where it is parked. Where r stands then is not yet recorded.
local function admit(r, c)
  if r.release and r.release <= NOW then r.release = nil end
  if not let_in(r) then return hold(r, c, GATED) end
  if r.release then return hold(r, c, r.release) end
  open_line(r)
  local limit = limit_of(r.service)
  if limit then
    local at = place(r)
    if straight(r.service, limit, 1) == 0 then return hold(r, c, at) end
    serve(r.service, at)
  end
  enqueue(r, c or parked(r))
  r.ordinal = count('a', r.service, 1)
end

-- accept is admit for r, which comes into being with the content c: it gets its turn
-- at its gate, and the concurrency of its service holds from now on at the latest.
local function accept(r, concurrency, c)
  limited(r.service, concurrency)
  if r.gate then
    local last = redis.call('ZRANGE', gate_key(r), -1, -1, 'WITHSCORES')[2]
    redis.call('ZADD', gate_key(r), int(tonumber(last or 0) + 1), r.id)
  end
  admit(r, c)
end

-- record_place writes where r stands after admit.
local function record_place(r)
  local f = { 'status', r.status, 'attempt', int(r.attempt) }
  local function set(name, value)
    if value then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('place', r.place and string.format('%.6f', r.place))
  set('entry', r.entry)
  if not r.entry and r.release then set('release', int(r.release)) end
  redis.call('HSET', r.key, unpack(f))
  if r.entry then
    redis.call('HDEL', r.key, 'release', 'content_type', 'headers', 'body')
    redis.call('ZREM', waiting_key(r.service), r.id)
  else
    redis.call('HDEL', r.key, 'entry', r.release and 'entry' or 'release')
  end
  schedule(r)
  wake(r)
end

-- readmit is admit for one that waited, or comes back.
local function readmit(r, c)
  admit(r, c)
  record_place(r)
end

-- stander reads the record of what stands in the line, nil where it tells more than what is
-- brief on the stream, and what only waits has: its body.
local function stander(key)
  local flat = redis.pcall('HGETALL', key)
  local f = { service = false, nonce = false, plan = false, status = false, attempt = false, body = false, content_type = false, headers = false }
  local more = #flat / 2
  for i = 1, #flat, 2 do f[flat[i]] = flat[i + 1] end
  for _, value in pairs(f) do
    if not value then return nil end
  end
  for i = 1, #ALSO do
    if f[ALSO[i]] then more = more - 1 end
  end
  return more == 8 and f.status == 'queued' and f.attempt == '1' and f or nil
end

-- to_stream moves what stands in the line as id to the stream, unless it is there: of most
-- the record is brief from then on. Its clocks are watched already, but for that of a run:
-- only now there may be one. Returns the bytes of its body, nil where nobody waits.
local function to_stream(service, id)
  local key = record_key(id)
  local f = stander(key)
  local created, timeout, start, run, lease = string.match(f and f.plan or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) ')
  if not created then
    local r = peek(id)
    if not r or TERMINAL[r.status] or r.entry then return nil end
    local c = parked(r)
    enqueue(r, c)
    record_place(r)
    return #c.body
  end
  local deadline = created + timeout
  local entry = add_entry(queue_key(service), service, id, id .. '.1.' .. f.nonce, '1', int(deadline), lease, f.content_type, f.trace or '', f.headers, f.body)
  redis.call('SET', key, brief(service, f.nonce, entry, f.plan) .. lines(f))
  if run ~= '0' then
    schedule({ id = id, created = tonumber(created), deadline = deadline, start = tonumber(start), run = tonumber(run), attempt = 1, entry = entry })
  end
  wake_for(id, f.waiters)
  return #f.body
end

-- release moves requests from the line to the stream as far as the limit lets
-- it, MOVED bytes or 128 of them at most. Returns whether there is more to move.
local function release(service, limit)
  local room = math.min(128, (limit or 128) - redis.call('XLEN', queue_key(service)))
  local all, moved, furthest = room, 0, 0
  while room > 0 and moved < MOVED do
    local next = in_line(service, math.min(room, 16))
    if #next == 0 then break end
    local gone, n = { 'ZREM', waiting_key(service) }, 0
    for i = 1, #next, 2 do
      local size = to_stream(service, next[i])
      gone[#gone + 1] = next[i]
      if size then
        furthest = math.max(furthest, tonumber(next[i + 1]))
        moved, n = moved + size, n + 1
      end
      if moved >= MOVED then break end
    end
    redis.call(unpack(gone))
    if n > 0 then count('a', service, n) end
    room = room - n
  end
  if furthest > 0 then serve(service, furthest) else close_line(service) end
  return (moved >= MOVED or all == 128) and #in_line(service, 1) > 0
end

-- leave takes r out of everything that it waited in, and lets in who is next at
-- its gate.
local function leave(r)
  if redis.call('ZREM', waiting_key(r.service), r.id) == 1 then close_line(r.service) end
  if not r.gate then return end
  local gate, waiting = gate_key(r), waiting_key(r.service)
  redis.call('ZREM', gate, r.id)
  -- Mostly it is one: the last of the first gate_limit. They are more where the
  -- limit was changed between the submits, and then looking at that one alone
  -- would leave others behind for ever.
  local next, at = {}, math.min(redis.call('ZCARD', gate), r.gate_limit) - 1
  while at >= 0 do
    local id = redis.call('ZRANGE', gate, at, at)[1]
    local f = id and load(id)
    if not id then
      at = at - 1
    elseif not f or TERMINAL[f.status] then
      redis.call('ZREM', gate, id) -- its record was lost
    elseif tonumber(redis.call('ZSCORE', waiting, id) or 0) == GATED then
      table.insert(next, 1, f)
      at = at - 1
    else
      break
    end
  end
  for i = 1, #next do
    if let_in(next[i]) then readmit(next[i]) end
  end
end

-- Services in which a script made room; conclude gives it to who waits.
local touched = {}

-- add_up adds to fields of a hash, to many at once. To add nothing takes no command.
local function add_up(key, fields)
  local n = 0
  for name, by in pairs(fields) do
    if by == 0 then fields[name] = nil else n = n + 1 end
  end
  if n < 3 then
    for name, by in pairs(fields) do try('HINCRBY', key, name, int(by)) end
    return
  end
  local names, flat = {}, {}
  for name in pairs(fields) do names[#names + 1] = name end
  local v = try('HMGET', key, unpack(names))
  for i = 1, #v do
    flat[2 * i - 1], flat[2 * i] = names[i], int((tonumber(v[i] or nil) or 0) + fields[names[i]])
  end
  if #flat > 0 then redis.call('HSET', key, unpack(flat)) end
end

-- write_gathered does what was gathered. What it is of is recorded: where something else
-- stands in the place of one key, that is nothing to the others.
local function write_gathered()
  for i = 1, #gathered do try(unpack(gathered[gathered[i]])) end
  for key, fields in pairs(sums) do add_up(key, fields) end
end

local function publish_wakes()
  for gateway, ids in pairs(wakes) do redis.call('PUBLISH', 'cc:wake:' .. gateway, table.concat(ids)) end
end

-- make_room gives the room of a service to who stands in its line, whom let_go releases.
-- Mostly nobody waits.
local function make_room(service, let_go)
  local limit = redis.call('EXISTS', waiting_key(service)) == 1 and limit_of(service) -- it may go before the last that it let through
  if limit and #in_line(service, 1) > 0 then let_go(service, limit) else close_line(service) end
end

-- lined tells whether any service that is touched may have a line. Most have none.
local function lined()
  local there = { P .. 'limits', nil }
  for service in pairs(touched) do there[#there + 1] = line_key(service) end
  return #there > 1 and redis.call('EXISTS', unpack(there)) > 0
end

-- make_rooms does so for all services that are touched, where lined.
local function make_rooms(let_go)
  local first = next(touched)
  if not next(touched, first) then return make_room(first, let_go) end
  local services, there = {}, {}
  for service in pairs(touched) do
    services[#services + 1] = service
    there[#there + 1] = line_key(service)
  end
  local limits, any = redis.call('HMGET', P .. 'limits', unpack(services)), redis.call('EXISTS', unpack(there)) > 0
  for i = 1, #services do
    if any or limits[i] then risk(make_room, services[i], let_go) end
  end
end

-- conclude is the last call of a script that moved requests.
local function conclude()
  write_gathered()
  if lined() then risk(make_rooms, release) end
  publish_wakes()
end
