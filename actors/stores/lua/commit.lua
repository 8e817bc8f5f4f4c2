-- commit: append one turn; the only way into the log. Atomic, because between the fence and the append no other
-- epoch may begin, and because a turn id must be known as soon as its turn is.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  epoch             of the caller's lease
-- ARGV[2]  token             of the caller's lease
-- ARGV[3]  born              of the caller's lease
-- ARGV[4]  turn_seq before   turns in the caller's log, without the new one
-- ARGV[5]  previous turn id  the last of them, empty if there is none
-- ARGV[6]  turn id           of the new turn
-- ARGV[7]  fingerprint       of its message
-- ARGV[8]  record            the new turn as bytes
-- ARGV[9]  ttl_ms            expiry of the session, 0 = never
-- ARGV[10] state             the agent's state as bytes; absent = unchanged
--
-- Checked in this order:
-- {'deleted'}
-- {'fenced', incarnation, slot, address, epoch, turn_seq}   incarnation empty: nobody; epoch 0: expired
-- {'regressed', turn_seq}
-- {'mismatch'}                                              the turn id is known with another fingerprint
-- {'replayed', record}                                      the turn id is known with this fingerprint
-- {'regressed', turn_seq}                                   the caller's log is not a prefix of the store's
-- {'ahead', turn_seq}                                       the store's log is longer than the caller's
-- {'ok'}                                                    renews the expiry, takeovers := 0
--
-- include: fence.lua

local turn_seq_before, previous_turn_id, turn_id, fingerprint = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local lease = load_lease()
if lease and lease.deleted then
  return {'deleted'}
end

local refusal = fence(lease, tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), turn_seq_before, previous_turn_id)
if refusal then
  return refusal
end

local known = redis.call('HGET', KEYS[3], turn_id)
if known then
  local turn_seq, known_fingerprint = string.match(known, '^(%d+):(.*)$')
  if known_fingerprint ~= fingerprint then
    return {'mismatch'}
  end
  return {'replayed', redis.call('LINDEX', KEYS[2], tonumber(turn_seq) - 1)}
end

if not begins_with(lease, turn_seq_before, previous_turn_id) then
  return {'regressed', lease.turn_seq}
end
if lease.turn_seq > turn_seq_before then
  return {'ahead', lease.turn_seq}
end

local turn_seq = turn_seq_before + 1
redis.call('RPUSH', KEYS[2], ARGV[8])
redis.call('HSET', KEYS[3], turn_id, turn_seq .. ':' .. fingerprint)
redis.call('HSET', KEYS[1], 'turn_seq', turn_seq, 'last_turn_id', turn_id, 'takeovers', 0)
if ARGV[10] then
  redis.call('HSET', KEYS[1], 'state', ARGV[10])
end
renew(tonumber(ARGV[9]))
return {'ok'}
