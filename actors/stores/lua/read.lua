-- read: a page of committed turns, for whoever asks. One step, so that turn_seq and the page belong together.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids (not read)
-- ARGV[1]  after             only turns with a greater turn_seq
-- ARGV[2]  limit             most turns to return, may be 0
-- ARGV[3]  bytes_max         of records; the page ends before the one that is too much, but has one at least
--
-- {'turns', turn_seq, {record, ...}}   turn_seq of the session's last turn
-- {'deleted'}
-- {'missing'}
--
-- include: fence.lua

local after, limit, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local AT_ONCE = 16
local lease = load_lease()
if not lease then
  return {'missing'}
end
if lease.deleted then
  return {'deleted'}
end
local page, bytes = {}, 0
for first = after, after + limit - 1, AT_ONCE do
  local records = redis.call('LRANGE', KEYS[2], first, math.min(first + AT_ONCE, after + limit) - 1)
  for _, record in ipairs(records) do
    bytes = bytes + #record
    if bytes > bytes_max and #page > 0 then
      return {'turns', lease.turn_seq, page}
    end
    page[#page + 1] = record
  end
  if #records < AT_ONCE then
    break
  end
end
return {'turns', lease.turn_seq, page}
