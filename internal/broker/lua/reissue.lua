-- reissue.lua hands callbacks of a gateway that died out again: a copy is
-- added, then the old intent is acknowledged and deleted, so that deliverers
-- only ever read new entries. Atomic for the same reason as lapse.lua.
--
-- KEYS[1] callbacks
-- ARGV[2] idle time in ms, [3] most intents
-- Returns the number handed out again, or -1 where the group is missing.
even_when_full()
local silent = redis.pcall('XPENDING', KEYS[1], 'deliverers', 'IDLE', ARGV[2], '-', '+', tonumber(ARGV[3]))
if silent.err then
  if string.find(silent.err, 'NOGROUP', 1, true) then return -1 end
  return redis.error_reply(silent.err)
end
for i = 1, #silent do
  local entry = silent[i][1]
  local found = redis.call('XRANGE', KEYS[1], entry, entry)[1]
  if found then redis.call('XADD', KEYS[1], '*', unpack(found[2])) end
  redis.call('XACK', KEYS[1], 'deliverers', entry)
  redis.call('XDEL', KEYS[1], entry)
end
return #silent
