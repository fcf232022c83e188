-- Remove a queue that its owner wants gone, if it holds nothing: args = {queue, dead-letter place}.
local queue, dead = unpack(args)
local held = redis.call('EXISTS', list_key(queue, '0'), list_key(queue, '3'), list_key(queue, '6'), list_key(queue, '9'),
  claimed_key(queue), running_key(queue), eta_key(queue)) + redis.call('XLEN', prefix .. dead)
if held > 0 then return 0 end
redis.call('DEL', prefix .. dead, prefix .. 'muster.served.' .. queue)
return 1
