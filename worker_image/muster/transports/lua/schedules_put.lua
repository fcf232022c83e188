-- Write entries: args = {scope, {{uid, entry JSON}, …}}. Equal ones change nothing.
local scope, entries = unpack(args)
local beat, schedules = prefix .. 'muster.beat.' .. scope, prefix .. 'muster.schedules.' .. scope
local revision
for _, e in ipairs(entries) do
  if redis.call('HGET', schedules, e[1]) ~= e[2] then
    revision = revision or next_number(beat, 'revision')
    redis.call('HSET', schedules, e[1], e[2])
    redis.call('ZADD', prefix .. 'muster.schedule_revisions.' .. scope, revision, e[1])
  end
end
return revision or ''
