-- intake.lua knows what submit.lua and scatter.lua, before which it stands, do alike:
-- what an idempotency key means already, and how a request that is stored becomes
-- one that is known.

-- meaning is what the key bound at binding means: nothing, or 'replayed' and the ID of
-- the earlier request, or 'mismatch' where that had another fingerprint.
local function meaning(binding, fingerprint)
  local other, its = string.match(redis.call('GET', binding) or '', '^(%S+) (%S+)$')
  local earlier = other and peek(other)
  if not earlier or gone(earlier) then return nil end
  if its ~= fingerprint then return 'mismatch' end
  return 'replayed', other
end

-- enroll binds the key of r, where it has one, watches its clocks, and lists it.
-- register is '1' where the tenant is new to this process.
local function enroll(r, tenant, register, binding, fingerprint)
  if binding then redis.call('SET', binding, r.id .. ' ' .. fingerprint) end
  schedule(r)
  redis.call('ZADD', listing_key('open', tenant), int(NOW), r.id)
  if register == '1' then redis.call('ZADD', P .. 'tenants', int(NOW), tenant) end
end
