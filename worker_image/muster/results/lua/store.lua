-- Store a batch of result documents by the rule of `store_result` (wire/lua/result.lua, put before this).
-- KEYS: one for each result; ARGV: document, status, retries, expires in seconds for each.
for number, key in ipairs(KEYS) do
  local at = (number - 1) * 4
  store_result(key, ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]))
end
