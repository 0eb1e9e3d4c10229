-- fence.lua writes, and leaves nothing behind. Whoever waits until that write is kept
-- knows that all that was written before is kept as well, by whomever: an
-- append-only file and a replica take everything in order.
--
-- KEYS[1] fence
-- Returns Redis' time in ms: what is older was written before.
redis.call('DEL', KEYS[1]) -- as even_when_full
redis.call('SET', KEYS[1], '1')
redis.call('DEL', KEYS[1])
return int(NOW)
