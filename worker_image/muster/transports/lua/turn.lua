-- One turn of a worker's loop: settlements and sendings, then starts, then the claim.
-- args = {settle, start, claim, run, worker, first number, lease seconds, queues, send, store}
--   settle = {{tag, queue, verdict, reason, text, eta, result, publish, dead letters}, …}
--     dead letters = {name, most of them, seconds}, of a message that joins them
--   start = {{tag, queue, extra run[, task, interval, tolerance]}, …};  queues = {name, …} in order of preference
--   send = {{token, {publication, …}}, …};  store = {result, …} of tasks that go on
-- Returns {now, settled bits, started bits, {tag, until, …} of starts put off, index of queue, step, message,
--   index of queue, …}.
local ACK, RETURN, LOST, DEAD, DEFER, REQUEUE, ACKED, ACK_EARLY = 0, 1, 2, 3, 4, 5, 6, 7
local settle, start, limit, run, worker, first, lease, queues, send, store = unpack(args)

-- What is done once however often it is said. A worker says it again in its next turns until it has an answer,
-- so that only the last of them need be remembered.
local sent_key = prefix .. 'muster.sent.' .. worker
local before
local said = {}
local function is_known(token)
  if not before then
    before = {}
    for _, known in ipairs(redis.call('SMEMBERS', sent_key)) do before[known] = true end
  end
  return before[token]
end
local function is_new(token)
  said[#said + 1] = token
  return not is_known(token)
end

-- task id, document, status, retries, expires in seconds, key; nothing when results live elsewhere
local function keep(result)
  if #result > 0 then store_result(result[6], result[2], result[3], result[4], result[5]) end
end

for _, result in ipairs(store) do keep(result) end

local settled, started = {}, {}
local done_tags = {}
for i, s in ipairs(settle) do
  local tag, queue, verdict = s[1], s[2], s[3]
  local ours = verdict == ACKED
    or redis.call('ZREM', running_key(queue), tag) + redis.call('ZREM', claimed_key(queue), tag) > 0
  keep(s[7])
  if verdict == ACK_EARLY then
    local token = 'early ' .. tag  -- the tag itself stands for what the run publishes
    if ours then done_tags[#done_tags + 1] = tag else ours = is_known(token) end
    if ours then said[#said + 1] = token end
  end
  settled[i] = ours and '1' or '0'
  if ours and verdict ~= ACK_EARLY then
    if #s[8] > 0 and (verdict ~= ACKED or is_new(tag)) then
      for _, p in ipairs(s[8]) do publish(p[1], p[2], p[3], p[4], p[5]) end
    end
    if verdict == ACK then
      done_tags[#done_tags + 1] = tag
    elseif verdict == DEFER then
      wait_until(tag, queue, s[6])
    elseif verdict ~= ACKED then
      local message = take(tag, queue)
      if message then
        local list = list_key(queue, step_of(tag))
        if verdict == RETURN then redis.call('RPUSH', list, message)
        elseif verdict == LOST then redis.call('RPUSH', list, with_loss(message, s[4]))
        elseif verdict == REQUEUE then redis.call('LPUSH', list, message)
        elseif verdict == DEAD then
          local dead = prefix .. s[9][1]
          redis.call('XADD', dead, 'MAXLEN', s[9][2], '*',
            'reason', s[4], 'text', s[5], 'queue', queue, 'message', message)
          redis.call('XTRIM', dead, 'MINID', string.format('%d', math.max(0, now - s[9][3]) * 1000))
        end
      end
    end
  end
end
if #done_tags > 0 then
  redis.call('ZREM', unacked_index, unpack(done_tags))
  redis.call('HDEL', unacked, unpack(done_tags))
end

for _, s in ipairs(send) do
  if is_new(s[1]) then
    for _, p in ipairs(s[2]) do publish(p[1], p[2], p[3], p[4], p[5]) end
  end
end
if #said > 0 then
  redis.call('DEL', sent_key)
  redis.call('SADD', sent_key, unpack(said))
  redis.call('EXPIRE', sent_key, 86400)
end

-- How often a task may start in all workers together: `ask` of muster/core/rate.py, whose state is a hash.
-- Returns until when it has to wait, or nil.
local function pace(task, interval, tolerance)
  local key = prefix .. 'muster.rate.' .. task
  local state = redis.call('HMGET', key, 'next_start', 'next_place')
  local next_start, next_place = tonumber(state[1] or 0), tonumber(state[2] or 0)
  local earliest, place = next_start - tolerance, nil
  if now >= earliest then
    next_start = math.max(next_start, now) + interval
  else
    place = math.max(earliest, next_place)
    next_place = place + interval
  end
  redis.call('HSET', key, 'next_start', number(next_start), 'next_place', number(next_place))
  redis.call('EXPIREAT', key, string.format('%.0f', math.ceil(math.max(next_start, next_place)) + 1))
  return place
end

local deadline = number(now + lease)
local put_off = {}
for i, s in ipairs(start) do
  local tag, queue = s[1], s[2]
  local claimed = redis.call('ZSCORE', claimed_key(queue), tag) ~= false
  -- a start whose answer got lost is asked for again
  local ours = claimed or redis.call('ZSCORE', running_key(queue), tag) ~= false
  local until_then = ours and s[4] and pace(s[4], s[5], s[6])
  if until_then then
    ours = false
    redis.call('ZREM', claimed_key(queue), tag)
    redis.call('ZREM', running_key(queue), tag)
    wait_until(tag, queue, until_then)
    put_off[#put_off + 1] = tag
    put_off[#put_off + 1] = number(until_then)
  elseif claimed then
    redis.call('ZREM', claimed_key(queue), tag)
    redis.call('ZADD', running_key(queue), deadline, tag)
    if s[3] ~= '' then redis.call('HINCRBY', prefix .. 'muster.extra_runs', s[3], 1) end
  end
  started[i] = ours and '1' or '0'
end

local out = {number(now), table.concat(settled), table.concat(started), put_off}
if limit > 0 then
  local at = number(now)
  local index, hash = {}, {}
  for _, step in ipairs(STEPS) do
    for q, queue in ipairs(queues) do
      if limit > 0 then
        local got = redis.call('RPOP', list_key(queue, step), limit)
        if got then
          local claimed, running = {}, {}
          local tail = ',"",' .. routing_key(queue) .. ']'
          for _, message in ipairs(got) do
            local tag = 'muster:' .. step .. ':' .. worker .. ':' .. string.format('%d', first)
            first = first + 1
            hash[#hash + 1] = tag
            hash[#hash + 1] = '[' .. message .. tail
            index[#index + 1] = at
            index[#index + 1] = tag
            -- what may have run before is counted when it starts, so it is never started here
            local fresh = run > 0 and string.sub(message, 1, 19) ~= '{"x-muster-losses":'
            local lease_set = fresh and running or claimed
            lease_set[#lease_set + 1] = deadline
            lease_set[#lease_set + 1] = tag
            if fresh then run = run - 1 end
            out[#out + 1] = fresh and q or -q
            out[#out + 1] = step
            out[#out + 1] = message
          end
          limit = limit - #got
          if #claimed > 0 then redis.call('ZADD', claimed_key(queue), unpack(claimed)) end
          if #running > 0 then redis.call('ZADD', running_key(queue), unpack(running)) end
        end
      end
    end
  end
  if #hash > 0 then
    redis.call('HSET', unacked, unpack(hash))
    redis.call('ZADD', unacked_index, unpack(index))
  end
end
return out
