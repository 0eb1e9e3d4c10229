-- batch.lua opens a batch in its home partition. Atomic because its idempotency
-- key must mean one batch, and idempotent because of it.
--
-- KEYS[1] home of the batch   KEYS[2] idempotency binding, only with a key
-- ARGV[2] id, [3] how many items the call had, [4] ms until all of them are forgotten,
--     [5] fingerprint, '' without a key, [6] ms after which the key has another home,
--     0 for never, [7] ms for which the batch is remembered beyond its binding: an
--     item of a call that was sent again must still find what it was before
-- Returns {'opened' | 'replayed', id, ms until which the batch is remembered at least} |
--     {'mismatch' | 'moved'}.
if ARGV[5] ~= '' then
  local bound = redis.call('GET', KEYS[2])
  local other, fingerprint = string.match(bound or '', '^(%S+) (%S+)$')
  local ends = other and redis.call('HGET', P .. 'batch:' .. other, 'ends')
  if ends then
    if fingerprint ~= ARGV[5] then return { 'mismatch' } end
    return { 'replayed', other, ends }
  end
end
if ARGV[6] ~= '0' and NOW > tonumber(ARGV[6]) then return { 'moved' } end
local ends = int(NOW + tonumber(ARGV[4]) + tonumber(ARGV[7]))
redis.call('HSET', KEYS[1], 'created', int(NOW), 'items', ARGV[3], 'ends', ends)
redis.call('PEXPIREAT', KEYS[1], ends)
if ARGV[5] ~= '' then redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. ARGV[5], 'PX', ARGV[4]) end
return { 'opened', ARGV[2], ends }
