-- newest: which state of a sealed conversation is the newest. Atomic, because of all that are made from one state only
-- one may become the newest. Called without a new state it only looks, and writes nothing.
--
-- KEYS[1]  hash    newest: turn_seq, state_id; turn_id and fingerprint of the request that made it
-- KEYS[2]  string  answer: the newest state, as its client got it; for a while
-- ARGV[1] turn_seq     of the state that the client sent, 0 = none
-- ARGV[2] state_id     of that state, empty = none
-- ARGV[3] turn_id      of the request
-- ARGV[4] fingerprint  of its message
-- ARGV[5] ttl_ms       how long the conversation is remembered
-- ARGV[6] answer_ms    how long the answer is
-- ARGV[7] new state_id of the state that the turn has made; absent = look
-- ARGV[8] new state    as text
--
-- Checked in this order:
-- {'mismatch'}              the newest state was made under this turn id, by another message
-- {'repeated', answer}      it was made by this very request; nil if the answer isn't kept any more
-- {'superseded', turn_seq}  it is another one than the client's: as old, or newer
-- {'ok'}                    the client's is the newest; what was made from it is now
--
-- A state that is newer than what is known here was accepted before the store lost its tail, or while no guard was on:
-- the state itself proves it, so it counts.
--
local turn_seq, state_id, turn_id, fingerprint = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HMGET', KEYS[1], 'turn_seq', 'state_id', 'turn_id', 'fingerprint')
if known[1] then
  local newest = tonumber(known[1])
  if known[3] == turn_id then
    if known[4] ~= fingerprint then
      return {'mismatch'}
    end
    return {'repeated', redis.call('GET', KEYS[2])}
  end
  if newest > turn_seq or (newest == turn_seq and known[2] ~= state_id) then
    return {'superseded', newest}
  end
end

if ARGV[7] then
  redis.call('HSET', KEYS[1], 'turn_seq', turn_seq + 1, 'state_id', ARGV[7], 'turn_id', turn_id,
    'fingerprint', fingerprint)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('SET', KEYS[2], ARGV[8], 'PX', ARGV[6])
end
return {'ok'}
