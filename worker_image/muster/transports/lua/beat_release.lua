-- End a term: args = {scope, holder, term}. The term's number stays, so that the next one is higher.
local scope, holder, term = unpack(args)
local beat = prefix .. 'muster.beat.' .. scope
local held = redis.call('HMGET', beat, 'holder', 'term')
if held[1] ~= holder or held[2] ~= term then return 0 end
redis.call('HDEL', beat, 'holder', 'until')
return 1
