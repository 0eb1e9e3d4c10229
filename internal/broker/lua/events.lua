-- events.lua reads a request together with its events after a number. One
-- script, so that the status and the history belong to the same instant.
--
-- KEYS[1] record
-- ARGV[2] id, [3] number of the last event known, [4] most events returned,
--     [5] largest reply body returned, [6] 1 to see a record that is kept only for a callback
-- Returns {view, first, events}: first is the number of the oldest event that
-- is kept (0 for none), events a list of "<ms> <type> <content type>\n<bytes>";
-- or nil where the record is gone.
local v = view(ARGV[2], tonumber(ARGV[5]), ARGV[6] == '1')
if not v then return false end
local key = events_key(ARGV[2])
local seq, after = tonumber(v[9] ~= '' and v[9] or 0), tonumber(ARGV[3])
local length = redis.call('LLEN', key)
if length == 0 then return { v, '0', {} } end
local first = seq - length + 1
local from = math.max(0, after - first + 1)
return { v, int(first), redis.call('LRANGE', key, from, from + tonumber(ARGV[4]) - 1) }
