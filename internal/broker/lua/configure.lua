-- configure.lua agrees on the deployment's configuration, and puts it back
-- after a flush. Atomic because two gateways that start at once must end up
-- with one key ring and one number of partitions.
--
-- KEYS[1] cc:config
-- ARGV[2] protocol, [3] partitions wanted (0: any), [4] keys wanted, [5] for how
--     long a former number of partitions is remembered, in ms, [6] tags of so many,
--     for those that have none yet
-- Returns {protocol, partitions, keys, former, now, founded, tags}: former is
-- "count:raised …", the numbers there were before, oldest first, and when each was
-- raised, in ms; founded is when this data began, another after a flush. Where the data
-- is of a later protocol, nothing but that.
local c = redis.call('HMGET', KEYS[1], 'protocol', 'partitions', 'id_keys', 'former', 'tags', 'founded')
local wanted = tonumber(ARGV[3])
local partitions = tonumber(c[2] or nil) or math.max(wanted, 1)
if c[1] and (tonumber(c[1]) or 0) > tonumber(ARGV[2]) then return { c[1], '', '', '', '', '', '' } end

local former = {}
for count, raised in string.gmatch(c[4] or '', '(%d+):(%d+)') do
  if NOW - raised < tonumber(ARGV[5]) then former[#former + 1] = count .. ':' .. raised end
end
if wanted > partitions then
  former[#former + 1] = int(partitions) .. ':' .. int(NOW)
  partitions = wanted
end

local keys, known = c[3] or '', {}
for key in string.gmatch(keys, '[^,]+') do known[key] = true end
for key in string.gmatch(ARGV[4], '[^,]+') do
  if not known[key] then
    keys = keys == '' and key or keys .. ',' .. key
    known[key] = true
  end
end
local tags, more = {}, {}
for tag in string.gmatch(c[5] or '', '[^,]+') do tags[#tags + 1] = tag end
for tag in string.gmatch(ARGV[6], '[^,]+') do more[#more + 1] = tag end
for i = #tags + 1, partitions do tags[i] = more[i] or int(i - 1) end
tags, former = table.concat(tags, ','), table.concat(former, ' ')
local founded = c[6] or int(NOW)
-- Every gateway asks once a second: what is there already is not written.
if not (c[1] == ARGV[2] and tonumber(c[2] or nil) == partitions and c[3] == keys and c[4] == former and c[5] == tags and c[6]) then
  redis.call('HDEL', KEYS[1], '-') -- as even_when_full, in the slot of this key
  redis.call('HSET', KEYS[1], 'protocol', ARGV[2], 'partitions', int(partitions), 'tags', tags, 'id_keys', keys,
    'former', former, 'founded', founded)
end
return { ARGV[2], int(partitions), keys, former, int(NOW), founded, tags }
