-- release: holder := nobody; the epoch stays. Atomic, because only a current lease may be given back.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  epoch             of the caller's lease
-- ARGV[2]  token             of the caller's lease
-- ARGV[3]  born              of the caller's lease
-- ARGV[4]  turn_seq          turns in the caller's log
-- ARGV[5]  last turn id      the last of them, empty if there is none
--
-- {'deleted'}
-- {'fenced', incarnation, slot, address, epoch, turn_seq}
-- {'regressed', turn_seq}   the caller's log is not a prefix of the store's; the lease is given back all the same
-- {'ok'}                    also if it was released already, or has expired
--
-- include: fence.lua

local epoch, token, born, turn_seq, last_turn_id =
  tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local lease = load_lease()
if not lease then
  return {'ok'}
end
if lease.deleted then
  return {'deleted'}
end

local released = lease.incarnation == '' and lease.born == born and lease.epoch == epoch
if not released then
  local refusal = fence(lease, epoch, token, born, turn_seq, last_turn_id)
  if refusal then
    return refusal
  end
  -- HDEL, which a full store allows. A host that gives its lease back wasn't killed by what it ran.
  redis.call('HDEL', KEYS[1], 'token', 'incarnation', 'slot', 'address', 'takeovers')
end
if not begins_with(lease, turn_seq, last_turn_id) then
  return {'regressed', lease.turn_seq}
end
return {'ok'}
