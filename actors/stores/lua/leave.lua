-- leave: give one's own slot back, to a spare if one waits. Atomic, because the slot must still be one's own when it is
-- freed.
--
-- KEYS[1]  hash    the table
-- KEYS[2]  hash    the beats
-- ARGV[1]  incarnation   of the host that leaves
-- ARGV[2]  gone          1: forget its beats too; 0: it goes on beating while it drains
--
-- {ring_version, {field, value, ...}}   the table; unchanged if the host had no slot
--
-- include: members.lua

local host = 'host:' .. ARGV[1]
local slot = redis.call('HGET', KEYS[1], host)
if slot then
  redis.call('HDEL', KEYS[1], host, 'slot:' .. slot)
  hand_on(slot)
  changed()
end
redis.call('HDEL', KEYS[1], 'spare:' .. ARGV[1])
if ARGV[2] == '1' then
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return table_reply()
