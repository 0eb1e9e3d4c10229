-- redrive.lua makes a new request of a dead letter. It stands before retry.lua
-- and pursue.lua.

-- COPIED are the fields of a record that are the client's own, so that the new
-- request has them too. The idempotency key is not among them: it means the
-- request that it was used for.
local COPIED = { 'service', 'tenant', 'callback', 'trace', 'policy', 'tags' }

-- redrive makes the request id of the dead letter r, with the same plan, and links
-- the two. The body, its type and headers move to the new one: one copy, always,
-- and since a dead letter is redriven once, the old one needs them no more. Should
-- the new one fail, it is a dead letter itself, with the body. most is how many
-- requests may be queued or wait. Returns 'accepted', 'full', 'lost' where the body
-- is gone, or 'taken' where the ID is.
local function redrive(r, id, nonce, most)
  if redis.call('EXISTS', record_key(id)) == 1 then return 'taken' end
  if redis.call('HEXISTS', r.key, 'body') == 0 then return 'lost' end
  local queued = redis.call('XLEN', queue_key(r.service)) + redis.call('ZCARD', waiting_key(r.service))
  if queued >= most then return 'full' end

  local v = redis.call('HMGET', r.key, 'plan', 'tenant', 'code', 'policy')
  local plan = {}
  for part in string.gmatch(v[1], '%S+') do plan[#plan + 1] = part end
  local n = { id = id, key = record_key(id), service = r.service, nonce = nonce, attempt = 1, created = NOW, ordinal = 0,
    deadline = NOW + tonumber(plan[2]), start = r.start, run = r.run, lease = r.lease }
  policy(n, v[4])
  if n.gate then
    local last = redis.call('ZRANGE', gate_key(n), -1, -1, 'WITHSCORES')[2]
    redis.call('ZADD', gate_key(n), int(tonumber(last or 0) + 1), id)
  end
  admit(n, parked(r))
  plan[1], plan[9] = int(NOW), int(n.ordinal)
  local f = { 'nonce', nonce, 'plan', table.concat(plan, ' '), 'status', n.status, 'attempt', '1', 'retry_of', r.id }
  local function set(name, value)
    if value then f[#f + 1] = name; f[#f + 1] = value end
  end
  set('entry', n.entry)
  local own = redis.call('HMGET', r.key, unpack(COPIED))
  for i = 1, #COPIED do set(COPIED[i], own[i]) end
  redis.call('HSET', n.key, unpack(f))
  redis.call('ZADD', listing_key('open', v[2]), int(NOW), id)
  redis.call('PEXPIREAT', n.key, int(n.deadline + WEEK))
  schedule(n)
  redis.call('HSET', r.key, 'retried_as', id)
  redis.call('HDEL', r.key, 'body', 'content_type', 'headers')
  unbury(r.id, v[2] or '', r.service, v[3] or '')
  return 'accepted'
end
