-- Ticks: args = {scope, holder, term, steps};
--   steps = {{uid, revision, mark before, run after, {queue, message, step, eta, tag} or {}}, …}
--   a run is '<mark> <record JSON>'; marks are compared as they are written, never reckoned with.
-- Returns for each 'done', 'changed', 'not leader', or the run that stands there instead of the mark before.
-- An expired lease that nobody has taken over is still good: the term is the fence, and it is ours.
local scope, holder, term, steps = unpack(args)
local revisions, runs = prefix .. 'muster.schedule_revisions.' .. scope, prefix .. 'muster.schedule_runs.' .. scope
local held = redis.call('HMGET', prefix .. 'muster.beat.' .. scope, 'holder', 'term')
local leads = held[1] == holder and held[2] == term

local outcomes = {}
for i, s in ipairs(steps) do
  local uid, revision, before, after, message = s[1], s[2], s[3], s[4], s[5]
  local run = leads and redis.call('HGET', runs, uid) or '- {}'
  if not leads then
    outcomes[i] = 'not leader'
  elseif tonumber(redis.call('ZSCORE', revisions, uid) or 0) ~= tonumber(revision) then
    outcomes[i] = 'changed'
  elseif string.match(run, '^%S+') ~= before then
    outcomes[i] = run
  else
    if #message > 0 then publish(unpack(message)) end
    redis.call('HSET', runs, uid, after)
    outcomes[i] = 'done'
  end
end
return outcomes
