-- schema: under which schema_version the deployment writes. Atomic, because an older program must not lower it.
--
-- KEYS[1]  string  the schema_version
-- KEYS[2]  hash    the table
-- KEYS[3]  hash    the beats
-- ARGV[1]  schema_version   the newest that the caller can read
--
-- {'ok'}                     stored is now the caller's
-- {'newer', schema_version}  a newer program has written here
-- {'foreign', key}           the key is of another type, or no number: not ours

for at = 2, 3 do
  local kind = redis.call('TYPE', KEYS[at]).ok
  if kind ~= 'none' and kind ~= 'hash' then
    return {'foreign', KEYS[at]}
  end
end
local found = redis.call('TYPE', KEYS[1]).ok
if found ~= 'none' then
  local stored = found == 'string' and tonumber(redis.call('GET', KEYS[1]))
  if not stored then
    return {'foreign', KEYS[1]}
  end
  if stored > tonumber(ARGV[1]) then
    return {'newer', stored}
  end
  if stored == tonumber(ARGV[1]) then
    -- Nothing to write, which a full store would refuse: hosts may start on one.
    return {'ok'}
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return {'ok'}
