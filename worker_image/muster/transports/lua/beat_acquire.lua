-- Begin a term of the election, unless somebody else leads: args = {scope, holder, lease seconds}.
-- Returns {1, term} or {0, who leads, for how many more seconds}.
local scope, holder, lease = unpack(args)
local beat = prefix .. 'muster.beat.' .. scope
local leader, ends = unpack(redis.call('HMGET', beat, 'holder', 'until'))
local left = tonumber(ends or 0) - now
-- more than a lease can be left only where the server's clock was set back: nobody shall wait for that
if leader and leader ~= holder and left > 0 and left <= lease then return {0, leader, number(left)} end
redis.call('HSET', beat, 'holder', holder, 'until', number(now + lease))
return {1, next_number(beat, 'term')}
