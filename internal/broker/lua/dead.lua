-- dead.lua knows the index of dead letters: the failed and timed-out requests
-- that were not redriven. It stands before outcome.lua.
--
-- A dead letter is a member "id service code" of four zsets by the instant of its
-- outcome, one for each question that can be asked about a tenant's: all, those of
-- a service, those with an error code, those of a service with an error code. So
-- no answer needs a scan. It is also a member "id service tenant-length tenantcode"
-- of the zset graves, by the instant at which its record is forgotten: the steward
-- prunes by that.

local MOST_DEAD = 100000 -- of a tenant and partition in the index; older ones are found by their ID alone

-- dead_key names the set of a tenant's dead letters; '' asks for all services, all codes.
local function dead_key(tenant, service, code)
  return P .. 'dead:' .. (service == '' and '*' or service) .. ':' .. #tenant .. ':' .. tenant .. ':' ..
    (code == '' and '*' or '=' .. code)
end

-- unbury takes a dead letter out of the index.
local function unbury(id, tenant, service, code)
  local member = id .. ' ' .. service .. ' ' .. code
  redis.call('ZREM', P .. 'graves', id .. ' ' .. service .. ' ' .. #tenant .. ' ' .. tenant .. code)
  redis.call('ZREM', dead_key(tenant, '', ''), member)
  redis.call('ZREM', dead_key(tenant, service, ''), member)
  if code == '' then return end
  redis.call('ZREM', dead_key(tenant, '', code), member)
  redis.call('ZREM', dead_key(tenant, service, code), member)
end

-- dead_letter splits a member of the index.
local function dead_letter(member) return string.match(member, '^(%S+) (%S+) (.*)$') end

-- bury puts r, whose outcome is recorded, into the index: that counts also where the index
-- is none.
local function bury(r)
  local v = redis.call('HMGET', r.key, 'tenant', 'code')
  local tenant, code, at = v[1] or '', v[2] or '', int(r.finished)
  local member, all = r.id .. ' ' .. r.service .. ' ' .. code, dead_key(tenant, '', '')
  try('ZADD', P .. 'graves', int(r.finished + r.retention), r.id .. ' ' .. r.service .. ' ' .. #tenant .. ' ' .. tenant .. code)
  try('ZADD', all, at, member)
  try('ZADD', dead_key(tenant, r.service, ''), at, member)
  if code ~= '' then
    try('ZADD', dead_key(tenant, '', code), at, member)
    try('ZADD', dead_key(tenant, r.service, code), at, member)
  end
  local n = try('ZCARD', all)
  if type(n) ~= 'number' or n <= MOST_DEAD then return end
  local id, service, other = dead_letter(redis.call('ZRANGE', all, 0, 0)[1])
  unbury(id, tenant, service, other)
end

local UNDERWAY = 60000 -- ms after which no submit is sent again any more, with much to spare

-- forget deletes the record of r, which is terminal, and all that belongs to it. While its
-- submit may still be sent again, since an answer was lost, its nonce stays: that is not
-- to bring it back.
local function forget(r)
  if r.status == 'failed' or r.status == 'timed_out' then
    local v = redis.call('HMGET', r.key, 'tenant', 'code')
    unbury(r.id, v[1] or '', r.service, v[2] or '')
  end
  local key, slot = kept(r)
  redis.call('HINCRBY', key, slot, -1)
  redis.call('ZREM', listing_key(r.status, r.tenant), r.id)
  for leg = 1, r.legs or 0 do redis.call('DEL', record_key(r.id .. '/' .. leg), reply_key(r.id .. '/' .. leg)) end
  forsake(r)
  redis.call('DEL', r.key, events_key(r.id), reply_key(r.id), binding(r))
  if NOW < r.created + UNDERWAY then
    redis.call('HSET', r.key, 'nonce', r.nonce)
    redis.call('PEXPIREAT', r.key, int(r.created + UNDERWAY))
  end
end
