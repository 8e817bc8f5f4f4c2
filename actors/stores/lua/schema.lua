-- schema: under which schema_version the deployment writes. Atomic, because an older program must not lower it.
--
-- KEYS[1]  string  the schema_version
-- ARGV[1]  schema_version   the newest that the caller can read
--
-- {'ok'}                     stored is now the caller's
-- {'newer', schema_version}  a newer program has written here
-- {'foreign'}                the key is of another type, or no number: not ours

local found = redis.call('TYPE', KEYS[1]).ok
if found ~= 'none' then
  local stored = found == 'string' and tonumber(redis.call('GET', KEYS[1]))
  if not stored then
    return {'foreign'}
  end
  if stored > tonumber(ARGV[1]) then
    return {'newer', stored}
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return {'ok'}
