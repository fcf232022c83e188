-- Store one result document and announce it, unless a ready state of the same retry stands there already.
-- Shared by the broker's script (when results live in the same database) and the result store's own.
local READY = {SUCCESS = true, FAILURE = true, REVOKED = true}

local function store_result(key, document, status, retries, expires)
  if redis.call('EXISTS', key) == 1 then
    local fine, stored = pcall(cjson.decode, redis.call('GET', key))
    if fine and type(stored) == 'table' and READY[stored.status] then
      -- Celery's writers put no number of retries in: then its rule holds, and SUCCESS stays
      if stored.status == 'SUCCESS' or (tonumber(stored.retries) or -1) >= retries then
        return false
      end
    end
  end
  if expires > 0 then
    redis.call('SET', key, document, 'EX', expires)
  else
    redis.call('SET', key, document)
  end
  redis.call('PUBLISH', key, document)
  return true
end
