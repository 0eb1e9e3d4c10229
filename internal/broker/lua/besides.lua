-- besides.lua is a part of succeed.lua: what few outcomes need besides.

-- owe stores the intent to tell of the outcome of id: on the stream, or where the caller
-- does that at once, in due as one that is to be tried again.
local function owe(id, how)
  if how == 'hand' then
    try('ZADD', P .. 'due', int(NOW + ARGV[2]), CALLBACK .. id .. ' succeeded 1 1')
  else
    try('XADD', P .. 'callbacks', '*', 'id', id, 'type', 'succeeded', 'number', '1', 'attempt', '1')
  end
end

-- bind keeps the idempotency key of a request for as long as its record.
local function bind(id, idem, forgotten)
  local bound = binding({ id = id, idem = idem })
  if bound then redis.call('PEXPIREAT', bound, int(forgotten)) end
end

-- tell wakes the gateways that wait for a request of the kind k.
local function tell(id, entry, k, started, worker, body)
  local at = k.at
  local r = { id = id, entry = entry, waiters = k.waiters, retention = tonumber(ARGV[at + 4]), worker = worker, attempt = 1, seq = 0 }
  wake_for(id, k.waiters, told(r, { status = 'succeeded', reply = body, rtype = ARGV[at + 5], rstatus = ARGV[at + 6], rheaders = ARGV[at + 7] }, started))
end

return owe, bind, tell
