-- batch.lua opens a batch in its home partition. Atomic because its idempotency
-- key must mean one batch, and idempotent because of it.
--
-- KEYS[1] home of the batch   KEYS[2] idempotency binding, only with a key
-- ARGV[2] id, [3] how many items the call had, [4] ms until all of them are forgotten,
--     [5] fingerprint, '' without a key
-- Returns {'opened' | 'replayed', id} | {'mismatch'}.
if ARGV[5] ~= '' then
  local bound = redis.call('GET', KEYS[2])
  local other, fingerprint = string.match(bound or '', '^(%S+) (%S+)$')
  if other then
    if fingerprint ~= ARGV[5] then return { 'mismatch' } end
    return { 'replayed', other }
  end
end
redis.call('HSET', KEYS[1], 'created', int(NOW), 'items', ARGV[3], 'ends', int(NOW + tonumber(ARGV[4])))
redis.call('PEXPIREAT', KEYS[1], int(NOW + tonumber(ARGV[4])))
if ARGV[5] ~= '' then redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. ARGV[5], 'PX', ARGV[4]) end
return { 'opened', ARGV[2] }
