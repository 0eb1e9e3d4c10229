-- enlist.lua notes what a worker says of itself. A script only because a full
-- Redis refuses the bare command, and who works then must still be seen to.
--
-- KEYS[1] cc:workers
-- ARGV[2] most entries, about, [3…] fields and values
-- Returns the entry.
redis.call('XDEL', KEYS[1], '0-1') -- as even_when_full, in the slot of this key
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
