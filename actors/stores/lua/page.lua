-- page: committed turns from Redis' copy, if it can be trusted. One step, so that the page belongs to what was compared.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  after             only turns with a greater turn_seq
-- ARGV[2]  limit             most turns to return, may be 0
-- ARGV[3]  bytes_max         of records; the page ends before the one that is too much, but has one at least
-- ARGV[4]  born              these four as PostgreSQL has just said
-- ARGV[5]  turn_seq
-- ARGV[6]  last turn id
-- ARGV[7]  hot               1: the turns beyond those count too
--
-- {'turns', turn_seq, {record, ...}}   turn_seq of the session's last turn
-- {'stale'}                            the copy doesn't begin with PostgreSQL's log
--
-- include: fence.lua

local lease = load_lease()
local known = tonumber(ARGV[5])
if not lease or lease.deleted or lease.born ~= tonumber(ARGV[4]) or lease.turn_seq < known
  or not begins_with(lease, known, ARGV[6]) or redis.call('LLEN', KEYS[2]) ~= lease.turn_seq then
  return {'stale'}
end
local turn_seq = ARGV[7] == '1' and lease.turn_seq or known
local after, limit, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local page, bytes, AT_ONCE = {}, 0, 16
local stop = math.min(after + limit, turn_seq)
for first = after, stop - 1, AT_ONCE do
  for _, record in ipairs(redis.call('LRANGE', KEYS[2], first, math.min(first + AT_ONCE, stop) - 1)) do
    bytes = bytes + #record
    if bytes > bytes_max and #page > 0 then
      return {'turns', turn_seq, page}
    end
    page[#page + 1] = record
  end
end
return {'turns', turn_seq, page}
