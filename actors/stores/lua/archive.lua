-- archive: the holder has given its lease back to PostgreSQL, which has all turns. The copy stays for whoever is next,
-- but not for long. Atomic, because by now another lease may be installed.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  epoch             of the lease that was given back
-- ARGV[2]  token
-- ARGV[3]  ttl_ms            expiry of the copy, 0 = never
--
-- {'ok'}                     also if it isn't that lease any more
--
-- include: fence.lua

local lease = load_lease()
if lease and not lease.deleted and lease.epoch == tonumber(ARGV[1]) and lease.token == ARGV[2] then
  redis.call('HDEL', KEYS[1], 'token', 'incarnation', 'slot', 'address')
  renew(tonumber(ARGV[3]))
end
return {'ok'}
