-- Begin a lease anew: args = {scope, holder, term, lease seconds}. Returns 0 when the term is over.
local scope, holder, term, lease = unpack(args)
local beat = prefix .. 'muster.beat.' .. scope
local held = redis.call('HMGET', beat, 'holder', 'term')
if held[1] ~= holder or held[2] ~= term then return 0 end
redis.call('HSET', beat, 'until', number(now + lease))
return 1
