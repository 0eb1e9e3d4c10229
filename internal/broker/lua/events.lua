-- events.lua reads a request together with its events after a number. One
-- script, so that the status and the history belong to the same instant.
--
-- KEYS[1] record
-- ARGV[2] id, [3] number of the last event known, [4] most events returned,
--     [5] largest reply body returned, [6] 1 to see a record that is kept only for a callback
-- Returns {view, first, events}: first is the number of the oldest event that
-- is kept (0 for none), events a list of "<ms> <type> <content type>\n<bytes>", of
-- a leg "<ms> <type>/<leg> …"; where a leg ended, what it replied as
-- "<ms> answer/<leg> <size> <content type>\n<bytes>", without the bytes where they are
-- more than MAX_ANSWER; or nil where the record is gone.
local MAX_ANSWER = 262144 -- as large as an event of a worker may be
local v, r = view(ARGV[2], tonumber(ARGV[5]), ARGV[6] == '1')
if not v then return false end
local name, seq, after = ARGV[2], tonumber(v[9] ~= '' and v[9] or 0), tonumber(ARGV[3])
local latest = seq -- that is kept
if r.via then -- what it shares may have gone on without it
  name, latest = r.via, tonumber(redis.call('HGET', record_key(r.via), 'seq') or seq)
end
local key = events_key(name)
local length = redis.call('LLEN', key)
if length == 0 then return { v, '0', {} } end
local oldest = latest - length + 1
local first = math.min(oldest, seq + 1) -- of its own; its outcome, where they were all cut
local from = math.max(after + 1, oldest)
local most = math.min(tonumber(ARGV[4]), seq - from + 1)
local list = most > 0 and redis.call('LRANGE', key, from - oldest, from - oldest + most - 1) or {}
for i = 1, #list do
  local at, leg = string.match(string.sub(list[i], 1, 40), '^(%d+) answer/(%d+) \n$')
  if at then
    local answered = ARGV[2] .. '/' .. leg
    local size = reply_size(answered)
    list[i] = at .. ' answer/' .. leg .. ' ' .. int(size) .. ' ' .. (redis.call('HGET', record_key(answered), 'rtype') or '') .. '\n' ..
      (size <= MAX_ANSWER and reply_of(answered) or '')
  end
end
return { v, int(first), list }
