-- deadletters.lua lists dead letters, newest first. It is one script so that a
-- page shows one instant.
--
-- KEYS[1] graves; routes only
-- ARGV[2] tenant ('' for the default one), [3] service or '', [4] error code or '',
--     [5] most, [6] instant and [7] ID to go on before; '+inf' and '' for the newest
-- Returns {{ID, service, code, message, status, attempt, created, finished, retention,
--     content type, bytes}, …}.
local key, most, at, before = dead_key(ARGV[2], ARGV[3], ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local out, offset = {}, 0
while #out < most do
  local page = redis.call('ZREVRANGEBYSCORE', key, at, '-inf', 'WITHSCORES', 'LIMIT', offset, 64)
  for i = 1, #page, 2 do
    local id, service, code = dead_letter(page[i])
    if #out < most and (tonumber(page[i + 1]) ~= tonumber(at) or before == '' or id < before) then
      local r = load(id)
      if r and not gone(r) then -- else it is about to be pruned
        local body = body_key(r)
        local type, size = redis.call('HGET', body, 'content_type'), redis.call('HSTRLEN', body, 'body')
        if size == 0 and r.via then
          local c = remains(r)
          if c then type, size = c.content_type, #c.body end
        end
        out[#out + 1] = { id, service, code, redis.call('HGET', r.key, 'message') or '', r.status, int(r.attempt), int(r.created), int(r.finished),
          int(r.retention), type or '', int(size) }
      end
    end
  end
  if #page < 128 then break end
  offset = offset + 64
end
return out
