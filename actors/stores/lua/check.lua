-- check: does the lease still stand? Notes, if asked to, which turn its holder runs now; otherwise reads only. Atomic,
-- because the note must be that of the holder.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  epoch             of the caller's lease
-- ARGV[2]  token             of the caller's lease
-- ARGV[3]  born              of the caller's lease
-- ARGV[4]  turn_seq          turns in the caller's log
-- ARGV[5]  last turn id      the last of them, empty if there is none
-- ARGV[6]  running           id of the turn to note, or empty
-- ARGV[7]  refused           id of the turn that is going to be called not done, or empty
--
-- {'deleted'}
-- {'fenced', incarnation, slot, address, epoch, turn_seq}   incarnation empty: nobody; epoch 0: expired
-- {'regressed', turn_seq}
-- {'replayed', record}                                      one of these two turns is in the log; nothing is noted
-- {'ok'}
--
-- include: fence.lua

local turn_seq, last_turn_id = tonumber(ARGV[4]), ARGV[5]
local lease = load_lease()
if lease and lease.deleted then
  return {'deleted'}
end
local refusal = fence(lease, tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), turn_seq, last_turn_id)
if refusal then
  return refusal
end
if not begins_with(lease, turn_seq, last_turn_id) then
  return {'regressed', lease.turn_seq}
end
local known = redis.call('HGET', KEYS[3], ARGV[6] ~= '' and ARGV[6] or ARGV[7])
if known then
  return {'replayed', redis.call('LINDEX', KEYS[2], tonumber(string.match(known, '^%d+')) - 1)}
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'running', ARGV[6])
end
return {'ok'}
