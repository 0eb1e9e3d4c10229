-- redrive.lua makes a new request of a dead letter. It stands before retry.lua
-- and pursue.lua.

-- COPIED are the fields of a record that are the client's own, so that the new
-- request has them too; the plan, the body, its type and its headers come over
-- apart. Not so the idempotency key and the item of a batch, which mean the request
-- that was accepted with them, and the delay, which is over. A test holds each field of a record to one of these.
local COPIED = { 'service', 'tenant', 'callback', 'trace', 'policy', 'tags' }

-- redrive makes the request id of the dead letter r, with the same plan, and links
-- the two. The body, its type and headers move to the new one: one copy, always,
-- and since a dead letter is redriven once, the old one needs them no more. Should
-- the new one fail, it is a dead letter itself, with the body. Those of a shared run
-- stay, for the others, until that is forgotten. most is how many
-- requests may be queued or wait, concurrency that of the service. Returns
-- 'accepted', 'full', 'lost' where the body is gone, or 'taken' where the ID is.
local function redrive(r, id, nonce, most, concurrency)
  if redis.call('EXISTS', record_key(id)) == 1 then return 'taken' end
  local c = remains(r)
  if not c then return 'lost' end
  local queued = redis.call('XLEN', queue_key(r.service)) + redis.call('ZCARD', waiting_key(r.service))
  if queued >= most then return 'full' end

  local v = redis.call('HMGET', r.key, 'plan', 'tenant', 'code', 'policy', 'delay', 'trace')
  local plan, delay = {}, tonumber(v[5] or 0)
  for part in string.gmatch(v[1], '%S+') do plan[#plan + 1] = part end
  plan[2] = int(plan[2] - delay) -- these two clocks waited for it
  if r.start > 0 then plan[3] = int(plan[3] - delay) end
  local n = { id = id, key = record_key(id), service = r.service, nonce = nonce, attempt = 1, created = NOW, ordinal = 0,
    deadline = NOW + tonumber(plan[2]), start = tonumber(plan[3]), run = r.run, lease = r.lease }
  policy(n, v[4])
  c.traceparent = v[6] or ''
  accept(n, concurrency, c)
  plan[1], plan[8], plan[9] = int(NOW), string.gsub(plan[8], 'd', '-'), int(n.ordinal) -- it waits by itself
  local f = { 'nonce', nonce, 'plan', table.concat(plan, ' '), 'status', n.status, 'attempt', '1', 'retry_of', r.id }
  local function set(name, value)
    if value then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('entry', n.entry)
  set('place', n.place and string.format('%.6f', n.place))
  local own = redis.call('HMGET', r.key, unpack(COPIED))
  for i = 1, #COPIED do set(COPIED[i], own[i]) end
  redis.call('HSET', n.key, unpack(f))
  redis.call('ZADD', listing_key('open', v[2]), int(NOW), id)
  schedule(n)
  redis.call('HSET', r.key, 'retried_as', id)
  if not r.via then redis.call('HDEL', r.key, 'body', 'content_type', 'headers') end
  unbury(r.id, v[2] or '', r.service, v[3] or '')
  return 'accepted'
end
