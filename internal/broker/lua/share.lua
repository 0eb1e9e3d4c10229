-- share.lua knows how requests with the same content share one run, and its reply
-- after that. Such a request has no entry of its own: it refers to the run, a record
-- at request:<id of the first>/0, and stands where that stands. Its ID, its clocks,
-- its callback and its end are its own; the events and the reply are the run's, kept
-- once. The key content:<hash> names the run that a newcomer may share: while it is
-- open, where its service has that, and as long as its reply is cached.

local MAX_SHARERS = 100 -- of an open run: they all end in one script

local function content_key(content) return P .. 'content:' .. content end

-- unbind has nobody share the run any more who does not yet.
local function unbind(content, name)
  local key = content_key(content)
  if redis.call('GET', key) == name then redis.call('DEL', key) end
end

-- find looks for a run to share by what submit.lua was told of sharing, until the
-- deadline of who asks. Returns the run, and 'hit' or 'shared'.
local function find(sharing, deadline)
  local name = redis.call('GET', content_key(sharing.content))
  local run = name and load(name)
  if not run or run.content ~= sharing.content then return nil end
  if run.finished then
    if run.status == 'succeeded' and NOW - run.finished <= sharing.age then return run, 'hit' end
  elseif sharing.join and deadline <= run.deadline then
    local _, open = string.gsub(run.parents or '', '%S+', '')
    if open < MAX_SHARERS then return run, 'shared' end
  end
end

-- stands puts into the view v of the open request r where its run is.
local function stands(r, v)
  local run = load(r.via)
  if not run or TERMINAL[run.status] then return end -- lost: all have their end by its own
  v[4], v[5], v[6], v[14] = run.status, int(run.attempt), run.entry or '', redis.call('HGET', run.key, 'history') or ''
  if run.status == 'queued' and claim(run) then v[4] = 'running' end
  if run.started then v[7], v[8] = int(math.max(run.started, r.created)), run.worker or '' end
  if run.release then v[13] = int(run.release) end
end

-- forsake has the request r, which is about to be forgotten, refer to no run any
-- more. The run goes with the last one; where others of them expired before, it stays
-- as long as it would have anyway. What somebody wanted forgotten answers nobody else.
local function forsake(r)
  local run = r.via and load(r.via)
  if not run then return end
  owes(r, 0 - tonumber(redis.call('HGET', r.key, 'owed') or 0))
  local left = redis.call('HINCRBY', run.key, 'sharers', -1)
  if not run.finished then return end
  unbind(run.content, run.id)
  if left <= 0 then redis.call('DEL', run.key, events_key(run.id), reply_key(run.id)) else outlast(run.id, 0) end
end
