-- fill: turns of PostgreSQL's log for Redis' copy of it. Atomic, because only the installed lease may add to a copy, and
-- only what follows on what is there.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  epoch             of the caller's lease
-- ARGV[2]  token
-- ARGV[3]  turn_seq before   turns in the copy until now
-- ARGV[4]  ttl_ms            expiry of the copy, 0 = never
-- ARGV[5]  state             of the agent, after the last turn of the session
-- ARGV[6...]                 turn id, fingerprint, record of each turn
--
-- {'ok'}
-- {'changed'}                the lease or the copy is another one by now
--
-- include: fence.lua

local lease = load_lease()
if not lease or lease.epoch ~= tonumber(ARGV[1]) or lease.token ~= ARGV[2] or lease.turn_seq ~= tonumber(ARGV[3])
  or lease.incarnation == '' then
  return {'changed'}
end
local turn_seq, last_turn_id = lease.turn_seq, lease.last_turn_id
for at = 6, #ARGV, 3 do
  turn_seq, last_turn_id = turn_seq + 1, ARGV[at]
  redis.call('RPUSH', KEYS[2], ARGV[at + 2])
  redis.call('HSET', KEYS[3], ARGV[at], turn_seq .. ':' .. ARGV[at + 1])
end
redis.call('HSET', KEYS[1], 'turn_seq', turn_seq, 'last_turn_id', last_turn_id, 'state', ARGV[5])
renew(tonumber(ARGV[4]))
return {'ok'}
