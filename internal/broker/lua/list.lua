-- list.lua looks through one listing index, newest first, for requests that fit.
-- The indexes of a partition are, for each tenant, "open" and the outcomes: a
-- zset of IDs by created in ms. submit.lua adds to the first, finish in
-- outcome.lua moves to the others, prune.lua takes out what is forgotten. A
-- script, so that what does not fit never leaves Redis.
--
-- KEYS[1] index
-- ARGV[2] newest created in ms or '+inf', [3] '' or the ID below which to begin
--     among those created then, [4] oldest created in ms, [5] most found,
--     [6] most looked at, [7] service or '', [8] beginning of the ID or '',
--     [9…] tags
-- Returns {created, ID, …}: first where it stopped, '' and '' at the end, then
-- what it found.
local from, below, to = ARGV[2], ARGV[3], ARGV[4]
local most, budget = tonumber(ARGV[5]), tonumber(ARGV[6])
local service, beginning = ARGV[7], ARGV[8]

local function fits(id)
  if string.sub(id, 1, #beginning) ~= beginning then return false end
  if service == '' and #ARGV < 9 then return true end
  local v = read(record_key(id), { 'service', 'tags' })
  if not v[1] or (service ~= '' and v[1] ~= service) then return false end
  local tags = ' ' .. (v[2] or '') .. ' '
  for i = 9, #ARGV do
    if not string.find(tags, ' ' .. ARGV[i] .. ' ', 1, true) then return false end
  end
  return true
end

local out, looked, offset, page = { '', '' }, 0, 0, 200
while true do
  local flat = redis.call('ZREVRANGEBYSCORE', KEYS[1], from, to, 'WITHSCORES', 'LIMIT', int(offset), page)
  for i = 1, #flat, 2 do
    local id, created = flat[i], int(tonumber(flat[i + 1]))
    if not (below ~= '' and created == from and id >= below) then
      looked = looked + 1
      if fits(id) then
        out[#out + 1] = created
        out[#out + 1] = id
      end
      if looked >= budget or #out >= 2 * most + 2 then
        out[1], out[2] = created, id
        return out
      end
    end
  end
  if #flat < 2 * page then return out end
  offset = offset + page
end
