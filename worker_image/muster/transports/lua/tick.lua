-- The once-a-second housekeeping of one worker.
-- args = {renew, report, revoked after, worker, pool, lease seconds, queues, reconcile, first number, spare}
--   renew = {{queue, {tag, …}}, …};  report = '' when there is none
-- Returns {now, next ETA or '', commands, revoked, tags that were gone, steps}: steps = {index of queue, step, …} of
-- the lists in which a message waits.
local renew, report, revoked_after, worker, pool, lease, queues, reconcile, first_number, spare = unpack(args)
local AT_ONCE = 200

local deadline = number(now + lease)
local gone = {}
for _, entry in ipairs(renew) do
  local queue = entry[1]
  for _, tag in ipairs(entry[2]) do
    local where = redis.call('ZSCORE', running_key(queue), tag) and running_key(queue)
      or redis.call('ZSCORE', claimed_key(queue), tag) and claimed_key(queue)
    if where then
      redis.call('ZADD', where, deadline, tag)
      redis.call('ZADD', unacked_index, 'XX', number(now), tag)
    else
      gone[#gone + 1] = tag
    end
  end
end

if reconcile then
  local ours = {}
  for _, entry in ipairs(renew) do
    for _, tag in ipairs(entry[2]) do ours[tag] = true end
  end
  for _, queue in ipairs(queues) do
    for _, set in ipairs({claimed_key(queue), running_key(queue)}) do
      for _, tag in ipairs(redis.call('ZRANGE', set, 0, -1)) do
        local name, claim = string.match(tag, '^muster:%d+:(.*):(%d+)$')
        if name == worker and tonumber(claim) >= first_number and not ours[tag] then
          redis.call('ZREM', set, tag)
          local message = take(tag, queue)
          if message then redis.call('RPUSH', list_key(queue, step_of(tag)), message) end
        end
      end
    end
  end
end

local next_eta, steps = '', {}
for index, queue in ipairs(queues) do
  local function back(set, change)
    for _, tag in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', number(now), 'LIMIT', 0, AT_ONCE)) do
      redis.call('ZREM', set, tag)
      local message = take(tag, queue)
      if message then redis.call('RPUSH', list_key(queue, step_of(tag)), change and change(message) or message) end
    end
  end
  back(eta_key(queue))
  if not spare then
    back(claimed_key(queue))
    back(running_key(queue), function(message) return with_loss(message, 'LeaseExpired') end)
  end
  local first = redis.call('ZRANGE', eta_key(queue), 0, 0, 'WITHSCORES')
  if first[2] and (next_eta == '' or tonumber(first[2]) < tonumber(next_eta)) then next_eta = first[2] end
  for _, step in ipairs(STEPS) do
    if redis.call('EXISTS', list_key(queue, step)) == 1 then
      steps[#steps + 1] = index
      steps[#steps + 1] = step
    end
  end
  redis.call('SET', prefix .. 'muster.served.' .. queue, worker, 'EX', 7 * 86400)
end

if report ~= '' then
  local reports = prefix .. 'muster.reports.' .. pool
  redis.call('HSET', reports, worker, number(now) .. ' ' .. report)
  redis.call('EXPIRE', reports, 60)
end

local mailbox = prefix .. 'muster.control.' .. worker
local commands = redis.call('LPOP', mailbox, 100) or {}
local revoked = redis.call('ZRANGEBYSCORE', prefix .. 'muster.revoked', '(' .. number(revoked_after), '+inf')
return {number(now), next_eta, commands, revoked, gone, steps}
