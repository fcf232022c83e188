-- Give a message of a lost Celery worker back: args = {tag, score, list, message}. The score tells whether
-- anybody has touched it since we looked.
local tag, score, list, message = unpack(args)
if redis.call('ZSCORE', unacked_index, tag) ~= score then return 0 end
redis.call('ZREM', unacked_index, tag)
redis.call('HDEL', unacked, tag)
redis.call('RPUSH', list, message)
return 1
