-- outcome.lua knows how requests end, and how they are tried again.

local time_out, gather, close, part, share_out -- below; the last four of what has legs, and of what is shared

-- A batch has in each partition in which it has items: the hash batch:<id>, the set
-- open:<id> of items without an outcome, and the list outcomes:<id> of
-- "id number status ms". The fields of the hash:
--
--   accepted succeeded failed timed_out canceled   how many
--   ends until  ms until which it is remembered: as agreed by all, and for its items
--   waiters     gateways to wake, separated by spaces
--   i<number>   which request the item is, where the call may be sent again
--   created items partitions   in its home only, see batch.lua and closebatch.lua

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

-- told is the outcome of r by o, as wake tells it to who has seen r open, and the reply
-- behind it, or nil where a record that was seen open does not have all else, or where r
-- is forgotten now:
-- " id:queued attempt finished retention started seq status rstatus reason worker code
-- message rtype rheaders reply", of what may be any text and comes last only the length,
-- a line break, and those texts.
local function told(r, o, claimed)
  local reply = o.reply or ''
  if o.forgotten or not r.entry or not string.find(r.waiters or '', '+', 1, true) then return nil end
  if r.via or r.legs or r.parents or r.release or #reply + #(o.rheaders or '') > TOLD then return nil end
  local worker, code, message = claimed and r.worker or '', o.code and string.sub(o.code, 1, MAX_CODE) or '', o.message and string.sub(o.message, 1, MAX_MESSAGE) or ''
  local rtype, rheaders = o.rtype or '', o.rheaders or ''
  local rstatus, reason = o.rstatus ~= '' and o.rstatus or '-', o.reason ~= '' and o.reason or '-'
  return ' ' .. r.id .. ':' .. string.match(r.entry, '^%d+') .. ' ' .. int(r.attempt) .. ' ' .. int(NOW) .. ' ' .. int(r.retention) .. ' ' ..
    (claimed and int(claimed) or '-') .. ' ' .. int(r.seq) .. ' ' .. o.status .. ' ' .. rstatus .. ' ' .. reason .. ' ' .. int(#worker) .. ' ' ..
    int(#code) .. ' ' .. int(#message) .. ' ' .. int(#rtype) .. ' ' .. int(#rheaders) .. ' ' .. int(#reply) .. '\n' ..
    worker .. code .. message .. rtype .. rheaders, reply
end

local ended = 0 -- outcomes that this script recorded

-- finish records the one outcome of r. o: status, reason, code, message, and
-- rtype, rstatus, reply of the worker; at, when it sent what led to this; cache, the
-- ms for which it may be cached. Everything is added before anything is taken away.
-- Returns lines for the report.
local function finish(r, o)
  local claimed = claim(r)
  r.status, r.finished, ended = o.status, NOW, ended + 1
  local f = { 'status', o.status, 'finished', int(NOW) }
  local function set(name, value)
    if value and value ~= '' then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('reason', o.reason)
  set('code', o.code and string.sub(o.code, 1, MAX_CODE))
  set('message', o.message and string.sub(o.message, 1, MAX_MESSAGE))
  if string.find(r.events, 'm', 1, true) then -- the client asked for no reply
    o.rtype, o.rstatus, o.rheaders, o.reply = nil, nil, nil, nil
  end
  if o.rtype then f[#f + 1] = 'rtype'; f[#f + 1] = o.rtype end -- also an empty one: there is a reply
  set('rstatus', o.rstatus)
  set('rheaders', o.rheaders)
  if o.reply and #o.reply > SHORT then -- in the record, it would have each field of that take three times its bytes
    if r.parents then redis.call('SET', reply_key(r.id), o.reply) -- it expires with what it is a part of
    else redis.call('SET', reply_key(r.id), o.reply, 'PXAT', int(NOW + r.retention)) end
    r.short = not (r.callback or r.parents) -- it expires when it has to
  else
    r.short = true
    set('reply', o.reply)
  end
  if r.via then
    set('seq', int(r.seq))
    set('attempt', int(r.attempt))
    local run = redis.call('HMGET', record_key(r.via), 'history', 'entry')
    set('history', run[1])
    if r.how ~= 'hit' then set('entry', run[2]) end -- when it was queued
  end
  if claimed then set('started', int(claimed)); set('worker', r.worker) end
  redis.call('HSET', r.key, unpack(f))
  local dead = not r.parents and (o.status == 'failed' or o.status == 'timed_out')
  if dead and not r.via then park(r) end -- to be redriven; what shared a run finds it there
  if dead and not r.legs then bury(r) end -- a scatter has no body that could be kept
  if r.callback and string.find(r.events, TERMINAL[o.status], 1, true) then owe(r, o.status, r.seq + 1) end
  wake(r, told(r, o, claimed))
  if not r.parents then -- a leg is kept, and found, with its whole
    expire(r)
    local key, slot = kept(r)
    sum(key, slot, 1)
    later('ZADD', listing_key(r.status, r.tenant), nil, int(r.created), r.id)
    later('ZREM', listing_key('open', r.tenant), nil, r.id)
  end
  local ran = not r.legs and not r.via -- by itself
  if r.status == 'failed' and ran then sum(P .. 'counts', 'e:' .. r.service, 1) end
  if claimed and ran then
    sum(P .. 'counts', 'f:' .. r.service, 1)
    sum(P .. 'counts', 'b:' .. r.service, math.max(0, NOW - claimed))
  end
  if claimed and not o.by_worker and ran then redis.call('PUBLISH', 'cc:cancel:' .. r.service, id_of(r.id)) end
  later('ZREM', P .. 'due', nil, r.id)
  if r.waiters or r.sequenced or r.release or r.placed or r.acked then redis.call('HDEL', r.key, 'waiters', 'wseq', 'release', 'place', 'acked') end
  local shared = r.content and share_out(r, o)
  if r.content and redis.call('HEXISTS', r.key, 'mourned') == 1 then park(r)
  elseif not dead and not r.entry then redis.call('HDEL', r.key, 'body', 'content_type', 'headers') end
  if not r.via then
    if r.entry and not r.gate then -- what is on the stream waits for nothing else
      drop_later(r)
    else
      drop(r)
      leave(r)
    end
    touched[r.service] = true
  end
  if r.batch then tally(r) end
  local report = 'outcome ' .. r.id .. ' ' .. r.service .. ' ' .. o.status .. ' ' .. (o.reason ~= '' and o.reason or '-') ..
    ' ' .. int(NOW - r.created) .. ' ' .. int(claimed and NOW - claimed or 0) .. ' ' .. int(r.attempt)
  if shared then return string.sub(shared, 2) end -- those who shared it tell of it
  if r.via then return report .. part(r, dead) end
  if r.legs then return report .. close(r, o.open or o) end
  if r.parents and not o.closing then return report .. gather(r, #(o.reply or '')) end
  return report
end

-- share_out gives the outcome o of the shared run r to all who wait for it; those whose
-- time was over before time out: what Redis took by then is settled. Its reply is
-- cached where it may be. Returns lines for the report, after a line break.
share_out = function(r, o)
  local ttl = r.status == 'succeeded' and string.find(o.rstatus or '', '^2?%d?%d?$') and (o.cache or r.cache) or 0
  if ttl <= 0 then unbind(r.content, r.id)
  else redis.call('SET', content_key(r.content), r.id, 'PX', int(ttl)) end
  outlast(r.id, NOW + math.max(ttl, 1000))
  local report = {}
  for id in string.gmatch(not o.closing and r.parents or '', '%S+') do
    local s = load(id)
    if s and not TERMINAL[s.status] then
      claim(s)
      local over, reason = clock(s)
      if (o.at or NOW) > over then
        report[#report + 1] = '\n' .. time_out(s, reason)
      else
        report[#report + 1] = '\n' .. finish(s, { status = o.status, reason = o.reason, code = o.code, message = o.message,
          rtype = o.rtype, rstatus = o.rstatus, rheaders = o.rheaders, by_worker = true })
      end
    end
  end
  return table.concat(report)
end

-- part takes r, which has its outcome, out of the run that it shared, and has that keep
-- the body where r is a dead letter. The run stops when the last one leaves. Returns
-- lines for the report.
part = function(r, dead)
  local run = load(r.via)
  if not run then return '' end
  if dead then redis.call('HSET', run.key, 'mourned', '1') end
  if run.finished then return '' end
  local left = {}
  for id in string.gmatch(run.parents or '', '%S+') do
    if id ~= r.id then left[#left + 1] = id end
  end
  redis.call('HSET', run.key, 'parents', table.concat(left, ' '))
  if #left > 0 then return '' end
  return finish(run, { status = 'canceled', reason = 'client', code = 'canceled', message = 'Nobody waits for it any more.', closing = true })
end

-- close ends what is still open of a scatter that has its outcome by o.
close = function(whole, o)
  local report = {}
  for leg = 1, whole.legs do
    local r = load(whole.id .. '/' .. leg)
    if r and not TERMINAL[r.status] then
      local as = { status = 'canceled', reason = 'scatter', code = 'not_needed', message = 'The scatter had its outcome without this one.', closing = true }
      if o.status == 'timed_out' or o.status == 'canceled' then
        as.status, as.reason, as.code, as.message = o.status, o.reason, o.code, o.message
      end
      report[#report + 1] = '\n' .. finish(r, as)
    end
  end
  return table.concat(report)
end

-- gather counts the leg r, which just ended, and decides whether that decides the
-- whole. Where less will do, it goes on until no more can come: what is there must
-- not hang on who answered first. Nobody can count a leg twice: it ends once. What
-- the deadline ends is left to it.
gather = function(r, size)
  local report = {}
  for id in string.gmatch(r.parents, '%S+') do
    local whole = load(id)
    if not whole or TERMINAL[whole.status] then
      expire(r) -- the whole was lost
    else
      began(r)
      whole.started = whole.started or r.started
      whole.ended, whole.latest = whole.ended + 1, NOW
      whole.bytes = whole.bytes + size
      if r.status == 'succeeded' then whole.succeeded = whole.succeeded + 1 end
      append(whole, int(NOW) .. ' answer/' .. leg_of(r.id) .. ' \n') -- refers to the reply, which is kept once
      redis.call('HSET', whole.key, 'scatter', table.concat({ int(whole.legs), int(whole.min), int(whole.stall),
        whole.partial and '1' or '0', int(whole.succeeded), int(whole.ended), int(whole.latest), int(whole.bytes) }, ' '))
      local open = whole.legs - whole.ended
      if whole.succeeded >= whole.min then
        report[#report + 1] = '\n' .. finish(whole, { status = 'succeeded', reason = '' })
      elseif NOW >= whole.deadline or open + whole.succeeded >= whole.min or whole.partial and open > 0 then
        schedule(whole)
        wake(whole)
      elseif whole.partial and whole.succeeded > 0 then
        report[#report + 1] = '\n' .. finish(whole, { status = 'succeeded', reason = 'partial' })
      else
        report[#report + 1] = '\n' .. finish(whole, { status = 'failed', reason = 'min_replies', code = 'too_few_replies',
          message = 'Of ' .. int(whole.legs) .. ' services, fewer than ' .. int(whole.min) .. ' can still succeed.' })
      end
    end
  end
  return table.concat(report)
end

local TIMEOUT = {
  total = { 'timeout', 'No outcome came before the timeout of the request.' },
  start = { 'start_timeout', 'No worker started the request before its start timeout.' },
  stall = { 'stall_timeout', 'No answer came for as long as the scatter waits for the next.' },
  run = { 'run_timeout', 'The worker did not reply before the run timeout.' },
}

-- time_out ends r because the clock reason ran out: a scatter for which less will do
-- succeeds with what is there. Returns lines for the report.
time_out = function(r, reason)
  local o = { status = 'timed_out', reason = reason, code = TIMEOUT[reason][1], message = TIMEOUT[reason][2] }
  if r.legs and r.partial and r.succeeded > 0 then return finish(r, { status = 'succeeded', reason = 'partial', open = o }) end
  return finish(r, o)
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

-- rank is how many go before r among those that wait, plus one; '' for one that
-- does not. At a gate it is behind the line, and behind who is there before it.
local function rank(r)
  if r.via and not r.finished then r = load(r.via) or r end
  if r.status ~= 'queued' or r.entry then return '' end
  local waiting = waiting_key(r.service)
  local score = redis.call('ZSCORE', waiting, r.id)
  if not score then return '' end
  if tonumber(score) < INSTANT then return int(redis.call('ZRANK', waiting, r.id) + 1) end
  local line = redis.call('ZCOUNT', waiting, '-inf', '(' .. INSTANT)
  return int(line + math.max(1, r.gate and redis.call('ZRANK', gate_key(r), r.id) or 1))
end

-- view is what a reader sees of a record: see parseView in view.go. Its first values
-- are those of OPEN but the last, and the rank; what has its outcome has then those of
-- OVER but the last, the size of the reply and the reply.
local OPEN = { 'service', 'plan', 'tenant', 'status', 'attempt', 'entry', 'started', 'worker', 'seq', 'callback', 'trace', 'retry_of',
  'release', 'history', 'policy', 'tags', 'scatter', 'shared', 'waiters' }
local OVER = { 'finished', 'reason', 'code', 'message', 'rtype', 'rstatus', 'rheaders', 'retried_as', 'reply' }

-- legs adds to the view v of the scatter whole what there is to see of each leg, 13
-- values; the replies only where all of them together have no more than inline
-- bytes. A scatter that is open stands where its legs do.
local function legs(whole, v, inline)
  local sum, replies = 0, {}
  for leg = 1, whole.legs do
    local name, from = whole.id .. '/' .. leg, #v
    local r = load(name)
    local l = r and redis.call('HMGET', r.key, 'service', 'status', 'attempt', 'started', 'worker', 'finished', 'reason', 'code', 'message', 'rtype', 'rstatus') or {}
    if r and r.status == 'queued' and claim(r) then l[2], l[4], l[5] = 'running', int(r.started), r.worker end
    for i = 1, 11 do v[from + i] = l[i] or '' end
    local size = reply_size(name)
    v[from + 12], v[from + 13] = int(size), ''
    sum = sum + size
    replies[#replies + 1] = from + 13
    if r and not TERMINAL[whole.status] then
      if l[2] == 'running' and v[4] ~= 'running' then v[4], v[7] = 'running', l[4] end
      if v[4] == 'scheduled' and r.status == 'queued' then v[4] = 'queued' end
      if v[4] == 'scheduled' and r.release then v[13] = int(r.release) end
    end
  end
  if sum > inline or not TERMINAL[whole.status] then return end
  for leg = 1, whole.legs do
    v[replies[leg]] = reply_of(whole.id .. '/' .. leg)
  end
end

-- over adds to the view v of r, which has its outcome, what there is to see of that.
local function over(r, v, o, inline)
  for i = 1, 8 do v[19 + i] = o[i] or '' end
  local text, from = o[9], r.id
  if r.via and o[5] then
    from = r.via
    text = redis.call('HGET', record_key(from), 'reply')
  end
  local size = text and #text
  if not text then
    text = o[5] and redis.call('GETRANGE', reply_key(from), 0, inline) or '' -- a byte more than may be returned
    size = #text > inline and redis.call('STRLEN', reply_key(from)) or #text
  end
  if size > inline then text = '' end
  v[28], v[29] = int(size), text
end

-- inline is the largest reply body that is returned; owed shows a record that is kept
-- only for a callback. Returns the view, and of the record what there was to read.
local function view(id, inline, owed)
  local key = record_key(id)
  local v, f = read(key, OPEN)
  if not v[1] or not v[2] then return nil end
  local r = { id = id, key = key, service = v[1], status = v[4], entry = v[6], started = tonumber(v[7] or nil), waiters = v[19], brief = f }
  if v[17] or v[18] then r = load(id) -- it is made of others
  elseif not v[6] then policy(r, v[15]) end
  local o
  if TERMINAL[v[4]] then
    o = f and pick(f, OVER) or redis.call('HMGET', key, unpack(OVER))
    r.finished, r.retention = tonumber(o[1] or nil), tonumber((string.match(v[2], '^%d+ %d+ %d+ %d+ %d+ %d+ (%d+)')))
    if gone(r) and not owed then return nil end
  elseif r.status == 'queued' and claim(r) then
    v[4], v[7], v[8] = 'running', int(r.started), r.worker
  end
  if r.via then
    v[9] = int(r.seq)
    if not o then stands(r, v) end
  end
  v[19] = rank(r)
  for i = 1, 18 do v[i] = v[i] or '' end
  if o then over(r, v, o, inline) end
  if r.legs then legs(r, v, inline) end
  return v, r
end
