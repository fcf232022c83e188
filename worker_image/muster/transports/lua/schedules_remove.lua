-- Remove entries and their runs: args = {scope, {uid, …}}.
local scope, uids = unpack(args)
local removed = redis.call('HDEL', prefix .. 'muster.schedules.' .. scope, unpack(uids))
redis.call('ZREM', prefix .. 'muster.schedule_revisions.' .. scope, unpack(uids))
redis.call('HDEL', prefix .. 'muster.schedule_runs.' .. scope, unpack(uids))
if removed > 0 then next_number(prefix .. 'muster.beat.' .. scope, 'revision') end
return removed
