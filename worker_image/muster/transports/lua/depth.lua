-- What stands in one queue at one moment. Changes nothing.
-- args = {queue, dead letter name, horizon seconds, how many entered messages to count at most}
-- ARGV[5…8]: the newest message of each priority list as it was read last; '' for none. (As bytes: what
--   stands in a list may be no text.)
-- Returns {now, {claimed, of them over, running, of them over, due, waiting, dead},
--   {{length, newest, oldest, how many have entered since the newest that was read last}, …}}.
local queue, dead, horizon, most = unpack(args)

-- Most queues are idle most of the time: one call in place of six.
local counts = {0, 0, 0, 0, 0, 0, redis.call('XLEN', prefix .. dead)}
local claimed, running, eta = claimed_key(queue), running_key(queue), eta_key(queue)
if redis.call('EXISTS', claimed, running, eta) > 0 then
  local at = number(now)
  counts[1], counts[2] = redis.call('ZCARD', claimed), redis.call('ZCOUNT', claimed, '-inf', at)
  counts[3], counts[4] = redis.call('ZCARD', running), redis.call('ZCOUNT', running, '-inf', at)
  counts[5], counts[6] = redis.call('ZCOUNT', eta, '-inf', number(now + horizon)), redis.call('ZCARD', eta)
end

local lists = {}
for i, step in ipairs({'0', '3', '6', '9'}) do
  local key, before = list_key(queue, step), ARGV[4 + i]
  local length = redis.call('LLEN', key)
  if length == 0 then
    lists[i] = {0, false, false, false}
  else
    local behind = before ~= '' and redis.call('LPOS', key, before, 'MAXLEN', most)
    lists[i] = {length, redis.call('LINDEX', key, 0), redis.call('LINDEX', key, -1), behind}
  end
end
return {number(now), counts, lists}
