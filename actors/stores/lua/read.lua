-- read: a page of committed turns, for whoever asks. One step, so that turn_seq and the page belong together.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids (not read)
-- ARGV[1]  after             only turns with a greater turn_seq
-- ARGV[2]  limit             most turns to return, may be 0
--
-- {'turns', turn_seq, {record, ...}}   turn_seq of the session's last turn
-- {'deleted'}
-- {'missing'}
--
-- include: fence.lua

local after, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local lease = load_lease()
if not lease then
  return {'missing'}
end
if lease.deleted then
  return {'deleted'}
end
if limit == 0 then
  return {'turns', lease.turn_seq, {}}
end
return {'turns', lease.turn_seq, redis.call('LRANGE', KEYS[2], after, after + limit - 1)}
