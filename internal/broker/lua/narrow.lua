-- narrow.lua is a part of stand.lua: how the service of the kind k gets a limit, with its first
-- request that needs one. It returns the limit, nil for none.
return function(k)
  limited(k.service, k.concurrency)
  open_line(k)
  return limit_of(k.service)
end
