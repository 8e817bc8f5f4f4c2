-- install: Redis' copy of a session takes over the lease that PostgreSQL has granted. Atomic: from here on no earlier
-- lease appends, so what is loaded is all that any of them has had acknowledged.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  epoch             that was granted; epochs grow over all lives of a session
-- ARGV[2]  token
-- ARGV[3]  born
-- ARGV[4]  incarnation       of the holder
-- ARGV[5]  slot
-- ARGV[6]  address
-- ARGV[7]  turn_seq          turns in PostgreSQL's log
-- ARGV[8]  last turn id      the last of them, empty if there is none
-- ARGV[9]  hot               1: turns beyond those may have been acknowledged here; 0: there are none
-- ARGV[10] ttl_ms            expiry of the copy, 0 = never
-- ARGV[11] schema_version    the newest that the caller can read
-- ARGV[12] window            most turns to load, the last ones, but always those that PostgreSQL doesn't have; 0 = all
--
-- {'newer', epoch}                              a later lease is installed already
-- {'loaded', lost, turn_seq, state, {record, ...}}  the copy begins with PostgreSQL's log
-- {'empty', lost}                               it doesn't: what there was has gone, and the copy has no turns yet
--                                               lost 1: it was hot, and the copy, now or at an earlier install, had gone
--
-- include: fence.lua

local epoch, born, hot = tonumber(ARGV[1]), tonumber(ARGV[3]), ARGV[9] == '1'
local turn_seq, last_turn_id = tonumber(ARGV[7]), ARGV[8]
local lease = load_lease()
if lease and (lease.epoch > epoch or (lease.epoch == epoch and lease.token ~= ARGV[2] and lease.incarnation ~= '')) then
  return {'newer', lease.epoch}
end

local usable = lease and not lease.deleted and lease.born == born and lease.schema_version <= tonumber(ARGV[11])
  and redis.call('LLEN', KEYS[2]) == lease.turn_seq and lease.turn_seq >= turn_seq
  and (hot or lease.turn_seq == turn_seq) and begins_with(lease, turn_seq, last_turn_id)
local lost = hot and (not usable or redis.call('HEXISTS', KEYS[1], 'lost') == 1)
if not usable then
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
end
redis.call('HSET', KEYS[1], 'schema_version', ARGV[11], 'born', ARGV[3], 'epoch', ARGV[1], 'takeovers', 0,
  'token', ARGV[2], 'incarnation', ARGV[4], 'slot', ARGV[5], 'address', ARGV[6])
if lost then
  redis.call('HSET', KEYS[1], 'lost', 1)
else
  redis.call('HDEL', KEYS[1], 'lost')
end
renew(tonumber(ARGV[10]))
if not usable then
  return {'empty', lost and 1 or 0}
end
local window = tonumber(ARGV[12])
local first = window > 0 and math.min(turn_seq, math.max(0, lease.turn_seq - window)) or 0
return {'loaded', lost and 1 or 0, lease.turn_seq, redis.call('HGET', KEYS[1], 'state') or '',
  redis.call('LRANGE', KEYS[2], first, -1)}
