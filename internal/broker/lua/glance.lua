-- glance.lua tells where requests stand, and no more than that. Who waits for many looks
-- at all of them every few seconds, and mostly nothing happened: so that costs a
-- fraction of what status.lua does for each. A script because a claim is read off the
-- pending list, of the entry that the record has at that instant.
--
-- KEYS[1] any record of the partition
-- ARGV[2] gateway, [3…] ids
-- Returns for each id "status attempt seq", "gone", or "" where status.lua has to be asked:
--     it is made of others, or this gateway is not registered with it
local answers = {}
for i = 3, #ARGV do
  local r = peek(ARGV[i])
  if not r or gone(r) then
    answers[i - 2] = 'gone'
  elseif r.via or r.legs or not string.find(' ' .. (r.waiters or '') .. ' ', ' ' .. ARGV[2] .. ' ', 1, true) then
    answers[i - 2] = ''
  else
    if r.status == 'queued' and claim(r) then r.status = 'running' end
    answers[i - 2] = r.status .. ' ' .. int(r.attempt) .. ' ' .. int(r.seq)
  end
end
return answers
