-- evict: take a slot from that very incarnation, for a spare if one waits, and forget its beats. Atomic, because whoever
-- holds the slot by now must not lose it.
--
-- KEYS[1]  hash    the table
-- KEYS[2]  hash    the beats
-- ARGV[1]  slot
-- ARGV[2]  incarnation   that was found dead
--
-- {ring_version, {field, value, ...}}   the table; unchanged, as the beats are, if the slot is not its any more
--
-- include: members.lua

local host = 'host:' .. ARGV[2]
if redis.call('HGET', KEYS[1], host) == ARGV[1] then
  redis.call('HDEL', KEYS[1], host, 'slot:' .. ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[2])
  hand_on(ARGV[1])
  changed()
end
return table_reply()
