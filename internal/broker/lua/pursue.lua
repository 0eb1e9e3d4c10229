-- pursue.lua does the next few of the part of a job: it redrives dead letters,
-- oldest first, and counts them in the same step, so that a steward that dies and
-- one that goes on for it do none twice and miss none.
--
-- KEYS[1] part of the job, see redriveall.lua
-- ARGV[2] ID of the job, [3] how many services, [4…] each with the most requests
--     that it has queued or waiting, and its concurrency or 0; then the rest: IDs and nonces for new requests
-- Returns {'more' | 'wait' while the queue is full | 'ended', 'spread' where all
--     partitions must be told of the state first or '', state, then of the job: tenant,
--     service, code, status, limit, until, total}.
local job = KEYS[1]
local v = redis.call('HMGET', job, 'state', 'home', 'spread', 'tenant', 'service', 'code', 'status', 'limit', 'until', 'total',
  'done', 'failed', 'at', 'after')
local state, total, done, failed = v[1], tonumber(v[10] or 0), tonumber(v[11] or 0), tonumber(v[12] or 0)

local function answer(verdict)
  local spread = v[2] == '1' and v[3] ~= '1' and 'spread' or ''
  if verdict == 'ended' and spread == '' then redis.call('ZREM', P .. 'redrives', ARGV[2]) end
  return { verdict, spread, state or '', v[4] or '', v[5] or '', v[6] or '', v[7] or '', v[8] or '', v[9] or '', int(total) }
end
if state ~= 'running' then return answer('ended') end

local at_service, n = {}, tonumber(ARGV[3])
for i = 1, n do at_service[ARGV[1 + 3 * i]] = 1 + 3 * i end
local spare = 4 + 3 * n
local at, after, moved, verdict = v[13], v[14], 0, 'more'

-- look redrives one. Returns whether to go on, and whether that one was decided: else
-- it is looked at again.
local function look(id)
  local r = load(id)
  if not r or gone(r) or (v[7] ~= '' and r.status ~= v[7]) then return true, true end
  if not ARGV[spare] then return false, false end
  local bytes = redis.call('HSTRLEN', body_key(r), 'body')
  local s = at_service[r.service] or at_service['*']
  local made = redrive(r, ARGV[spare], ARGV[spare + 1], tonumber(ARGV[s + 1]), ARGV[s + 2])
  if made == 'full' then
    verdict = 'wait'
    return false, false
  end
  if made == 'lost' then
    failed = failed + 1
    return true, true
  end
  spare = spare + 2
  if made == 'taken' then return look(id) end
  done, moved = done + 1, moved + bytes
  return moved < MOVED, true
end

local key = dead_key(v[4], v[5], v[6])
local looked, offset, stopped, page = 0, 0, false, nil
while not stopped and looked < 128 and done + failed < total do
  page = redis.call('ZRANGEBYSCORE', key, at, v[9], 'WITHSCORES', 'LIMIT', offset, 64)
  local from, before = at, done
  for i = 1, #page, 2 do
    local id = dead_letter(page[i])
    if tonumber(page[i + 1]) ~= tonumber(from) or id > after then
      if done + failed >= total then break end
      looked = looked + 1
      local go_on, decided = look(id)
      if decided then at, after = page[i + 1], id end
      if not go_on then
        stopped = true
        break
      end
    end
  end
  if #page < 128 and not stopped then
    stopped = true
    total = done + failed -- the others were redriven or forgotten by somebody else, or have another status
  end
  offset = at == from and offset + 64 - (done - before) or 0 -- many died at one instant
end
redis.call('HSET', job, 'done', int(done), 'failed', int(failed), 'at', at, 'after', after)
if done + failed >= total then
  state, verdict = 'done', 'ended'
  redis.call('HSET', job, 'state', state, 'total', int(total), 'ended', int(NOW))
  redis.call('PEXPIRE', job, 86400000)
else
  redis.call('PEXPIRE', job, WEEK)
end
conclude()
return answer(verdict)
