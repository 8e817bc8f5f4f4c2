-- join: take the lowest free slot, or wait as a spare for the first that falls free. Atomic, because two hosts that start
-- at one moment must not take the same one.
--
-- KEYS[1]  hash    the table
-- KEYS[2]  hash    the beats (not used)
-- ARGV[1]  incarnation   of the host that joins
-- ARGV[2]  record        of the member, without its slot
-- ARGV[3]  slots_max     slots are slot-0 to slot-<slots_max - 1>
--
-- {ring_version, {field, value, ...}}   the table; unchanged if the host has a slot already or none is free
--
-- include: members.lua

local host = 'host:' .. ARGV[1]
-- The table stays for ever, so this changes nothing; but it writes, and after it a full store refuses nothing (as in
-- beat): whoever takes a dead host's place can then say that the store is full.
redis.call('PERSIST', KEYS[1])
if redis.call('HEXISTS', KEYS[1], host) == 0 then
  redis.call('HSET', KEYS[1], 'spare:' .. ARGV[1], ARGV[3] .. ' ' .. ARGV[2])
  for number = 0, tonumber(ARGV[3]) - 1 do
    local slot = 'slot-' .. number
    if redis.call('HSETNX', KEYS[1], 'slot:' .. slot, ARGV[2]) == 1 then
      redis.call('HDEL', KEYS[1], 'spare:' .. ARGV[1])
      redis.call('HSET', KEYS[1], host, slot)
      changed()
      break
    end
  end
end
return table_reply()
