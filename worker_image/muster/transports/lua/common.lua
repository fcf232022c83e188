-- What the scripts of this folder share. Arguments of each: ARGV[1] prefix, ARGV[2] unacked, ARGV[3]
-- unacked_index, ARGV[4] a MessagePack array of its own. Names of keys are those of muster/wire/keys.py.
--
-- A message in hand stands in four places: `unacked` (as Celery stores it: '[message,"",routing key]'),
-- `unacked_index` (Celery's, by the time of the last renewal, so that its workers leave it alone), and
-- either muster.claimed.<queue> or muster.running.<queue>, by the deadline of its lease.
local prefix, unacked, unacked_index = ARGV[1], ARGV[2], ARGV[3]
local args = cmsgpack.unpack(ARGV[4])

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000

local function number(value) return string.format('%.6f', value) end

-- Celery's priorities, as lists: the first is served first.
local STEPS = {'0', '3', '6', '9'}

local function list_key(queue, step)
  if step == '0' then return prefix .. queue end
  return prefix .. queue .. '\6\22' .. step
end

local function claimed_key(queue) return prefix .. 'muster.claimed.' .. queue end
local function running_key(queue) return prefix .. 'muster.running.' .. queue end
local function eta_key(queue) return prefix .. 'muster.eta.' .. queue end

-- The priority step of one of our tags, 'muster:<step>:<worker>:<number>'.
local function step_of(tag) return string.match(tag, '^muster:(%d+):') end

local function routing_key(queue) return cjson.encode(queue) end

-- Take a tag out of Celery's two places; returns the message, or nil when it is not there any more.
local function take(tag, queue)
  local entry = redis.call('HGET', unacked, tag)
  redis.call('HDEL', unacked, tag)
  redis.call('ZREM', unacked_index, tag)
  return entry and string.sub(entry, 2, #entry - #routing_key(queue) - 5)
end

-- The same message with one more loss on its account. Two fields at the very front of the envelope hold
-- it: kombu ignores and keeps them (with spaces, when it writes a message again), and the JSON behind them
-- is not touched. What is no JSON object has no account; it will be buried before it can run.
local ACCOUNT = '^{%s*"x%-muster%-losses"%s*:%s*(%d+)%s*,%s*"x%-muster%-cause"%s*:%s*"%a*"%s*(.*)$'

local function with_loss(message, cause)
  if string.sub(message, 1, 1) ~= '{' then return message end
  local losses, rest = string.match(message, ACCOUNT)
  if not losses then
    losses, rest = 0, string.match(message, '^{%s*(.*)$')
    if string.sub(rest, 1, 1) ~= '}' then rest = ',' .. rest end
  end
  return string.format('{"x-muster-losses":%d,"x-muster-cause":"%s"', losses + 1, cause) .. rest
end

local function wait_until(tag, queue, eta)
  redis.call('ZADD', unacked_index, number(eta), tag)
  redis.call('ZADD', eta_key(queue), number(eta), tag)
end

-- Put one message into its queue, or let it wait for its ETA. Where no Muster worker has consumed the
-- queue in the last week nobody would end the wait, so it goes into the queue as Celery's clients do it.
local function publish(queue, message, step, eta, tag)
  if eta > now and redis.call('EXISTS', prefix .. 'muster.served.' .. queue) == 1 then
    redis.call('HSET', unacked, tag, '[' .. message .. ',"",' .. routing_key(queue) .. ']')
    wait_until(tag, queue, eta)
  else
    redis.call('LPUSH', list_key(queue, step), message)
  end
end

-- Count a field of a hash up and return it: by the clock, so that it rises over what was there before the
-- server lost its memory, and by one where the clock has not moved on.
local function next_number(hash, field)
  local last = tonumber(redis.call('HGET', hash, field) or 0)
  local risen = string.format('%.0f', math.max(last + 1, math.floor(now * 1000000)))
  redis.call('HSET', hash, field, risen)
  return risen
end
