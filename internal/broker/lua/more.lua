-- more.lua is a part of direct.lua: what not every record has.

-- What it returns writes that of a request with the options o, under the policy rules: in a
-- brief record, or as the fields and values of a hash.
return function(o, tenant, rules, waiter, hash)
  o.tenant, o.policy, o.waiters = tenant, rules, waiter
  if not hash then return lines(o) end
  local all = {}
  for i = 1, #ALSO do
    local value = o[ALSO[i]]
    if value and value ~= '' then all[#all + 1] = ALSO[i]; all[#all + 1] = value end
  end
  return all
end
