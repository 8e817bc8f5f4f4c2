-- commit: append one turn; the only way into the log. Atomic, because between the fence and the append no other
-- epoch may begin, and because a turn id must be known as soon as its turn is.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  lease             of the caller: epoch and born, 8 bytes each, little-endian, and the token
-- ARGV[2]  previous turn id  packed; the last in the caller's log, without the new one; empty if there is none
-- ARGV[3]  record            the new turn as bytes
-- ARGV[4]  ttl_ms            expiry of the session, 0 = never
-- ARGV[5]  state             the agent's state as bytes; absent = unchanged
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
-- include: record.lua

local epoch, born = struct.unpack('<i8i8', ARGV[1])
local previous_turn_id = ARGV[2] ~= '' and written_id(ARGV[2]) or ''
local turn_seq, turn_id, fingerprint = look_into(ARGV[3])
local turn_seq_before = turn_seq - 1
local lease = load_lease()
if lease and lease.deleted then
  return {'deleted'}
end

local refusal = fence(lease, epoch, string.sub(ARGV[1], 17), born, turn_seq_before, previous_turn_id)
if refusal then
  return refusal
end

local known = redis.call('HGET', KEYS[3], turn_id)
if known then
  local known_seq, known_fingerprint = string.match(known, '^(%d+):(.*)$')
  if known_fingerprint ~= fingerprint then
    return {'mismatch'}
  end
  return {'replayed', redis.call('LINDEX', KEYS[2], tonumber(known_seq) - 1)}
end

if not begins_with(lease, turn_seq_before, previous_turn_id) then
  return {'regressed', lease.turn_seq}
end
if lease.turn_seq > turn_seq_before then
  return {'ahead', lease.turn_seq}
end

redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[3], turn_id, turn_seq .. ':' .. fingerprint)
redis.call('HSET', KEYS[1], 'turn_seq', turn_seq, 'last_turn_id', turn_id, 'takeovers', 0)
if ARGV[5] then
  redis.call('HSET', KEYS[1], 'state', ARGV[5])
end
renew(tonumber(ARGV[4]))
return {'ok'}
