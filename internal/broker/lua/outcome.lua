-- outcome.lua knows how requests end, and how they are tried again.

-- A batch has in each partition in which it has items: the hash batch:<id> with
-- how many were accepted and how many have which outcome, the set open:<id> of
-- the others, and the list outcomes:<id> of "id number status ms".

-- tally counts the outcome of r in its batch. What a batch has in a partition is
-- forgotten with the last of its items there.
local function tally(r)
  local batch, number = string.match(r.batch, '^(%S+) (%d+)$')
  local key, list = P .. 'batch:' .. batch, P .. 'outcomes:' .. batch
  redis.call('HINCRBY', key, r.status, 1)
  redis.call('RPUSH', list, table.concat({ r.id, number, r.status, int(NOW) }, ' '))
  redis.call('SREM', P .. 'open:' .. batch, r.id)
  local v = redis.call('HMGET', key, 'until', 'waiters', 'ends')
  local last = math.max(tonumber(v[1] or 0), NOW + r.retention, tonumber(v[3] or 0))
  redis.call('HSET', key, 'until', int(last))
  if redis.call('EXISTS', P .. 'open:' .. batch) == 1 then
    last = NOW + math.max(redis.call('PTTL', key), last - NOW)
  end
  redis.call('PEXPIREAT', key, int(last))
  redis.call('PEXPIREAT', list, int(last))
  wake({ id = batch, waiters = v[2] })
end

-- finish records the one outcome of r. o: status, reason, code, message, and
-- rtype, rstatus, reply of the worker. Everything is added before anything is
-- taken away. Returns a line for the report.
local function finish(r, o)
  local claimed = claim(r)
  r.status, r.finished = o.status, NOW
  local f = { 'status', o.status, 'finished', int(NOW), 'reason', o.reason or '' }
  local function set(name, value)
    if value then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('code', o.code and string.sub(o.code, 1, MAX_CODE))
  set('message', o.message and string.sub(o.message, 1, MAX_MESSAGE))
  if not string.find(r.events, 'm', 1, true) then -- the client asked for no reply
    set('rtype', o.rtype)
    set('rstatus', o.rstatus)
    set('rheaders', o.rheaders)
    set('reply', o.reply)
  end
  if claimed then set('started', int(claimed)); set('worker', r.worker) end
  redis.call('HSET', r.key, unpack(f))
  if o.status == 'failed' or o.status == 'timed_out' then park(r) end -- a dead letter, to be redriven
  if r.callback and string.find(r.events, TERMINAL[o.status], 1, true) then owe(r, o.status, r.seq + 1) end
  expire(r)
  wake(r)
  kept(r, 1)
  if claimed then
    count('f', r.service, 1)
    count('b', r.service, math.max(0, NOW - claimed))
  end
  if claimed and not o.by_worker then redis.call('PUBLISH', 'cc:cancel:' .. r.service, r.id) end
  redis.call('ZREM', P .. 'due', r.id)
  redis.call('HDEL', r.key, 'waiters', 'wseq', 'release', 'acked')
  if o.status == 'succeeded' or o.status == 'canceled' then redis.call('HDEL', r.key, 'body', 'content_type', 'headers') end
  drop(r)
  leave(r)
  if r.batch then tally(r) end
  touched[r.service] = true
  return 'outcome ' .. r.id .. ' ' .. r.service .. ' ' .. o.status .. ' ' .. (o.reason ~= '' and o.reason or '-') ..
    ' ' .. int(NOW - r.created) .. ' ' .. int(claimed and NOW - claimed or 0) .. ' ' .. int(r.attempt)
end

-- again gives r another attempt with the content c, after a delay in ms. What
-- is added comes before what goes, so that workers only ever read new entries.
local function again(r, c, code, message, delay)
  local old = { entry = r.entry, service = r.service }
  claim(r)
  next_attempt(r, code, message)
  if delay > 1 then r.release = math.floor(NOW + delay) end
  readmit(r, c)
  drop(old)
  touched[r.service] = true
end

-- lapse takes r, whose entry has the fields f, away from a worker that fell
-- silent: a copy with the next attempt is added before the old entry goes, so
-- that workers only ever read new entries. Returns a line for the report.
local function lapse(r, f)
  if r.attempt >= r.max then
    claim(r)
    return finish(r, { status = 'failed', reason = 'max_attempts', code = 'lease_lapsed',
      message = 'The worker of the last attempt fell silent.' })
  end
  again(r, f, 'lease_lapsed', 'The worker fell silent.', 0)
  return 'lapse ' .. r.id .. ' ' .. r.service
end

-- rank is how many stand before r among those that wait, plus one; '' for one
-- that does not.
local function rank(r)
  if r.status ~= 'queued' or r.entry then return '' end
  local before = redis.call('ZRANK', waiting_key(r.service), r.id)
  return before and int(before + 1) or ''
end

-- view is what a reader sees of a record: see parseView in view.go.
-- inline is the largest reply body that is returned; owed shows a record that
-- is kept only for a callback.
local FIELDS = { 'service', 'plan', 'tenant', 'status', 'attempt', 'entry', 'started', 'worker', 'seq',
  'finished', 'reason', 'code', 'message', 'rtype', 'rstatus', 'callback', 'trace', 'retry_of', 'release', 'history', 'policy', 'rheaders' }
local function view(id, inline, owed)
  local r = load(id)
  if not r or (gone(r) and not owed) then return nil end
  local key = r.key
  local v = redis.call('HMGET', key, unpack(FIELDS))
  if r.status == 'queued' and claim(r) then
    v[4], v[7], v[8] = 'running', int(r.started), r.worker
  end
  local size = redis.call('HSTRLEN', key, 'reply')
  v[#FIELDS + 1] = int(size)
  v[#FIELDS + 2] = size > 0 and size <= inline and redis.call('HGET', key, 'reply') or ''
  v[#FIELDS + 3] = int(NOW)
  v[#FIELDS + 4] = rank(r)
  for i = 1, #FIELDS do v[i] = v[i] or '' end
  return v
end
