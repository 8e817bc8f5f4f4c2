-- delete: log, state and ids go, the epoch grows, a tombstone stays, which says who had the lease. Atomic, because a
-- commit may come at any moment: it finds either the session or the tombstone.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  turn id           of the request to delete, never empty
-- ARGV[2]  tombstone_ms      how long the tombstone stays, above 0
-- ARGV[3]  schema_version    under which it is written
--
-- {'missing'}
-- {'ok', incarnation, slot, address}   of who held it, empty: nobody. Also if it is deleted already; the tombstone
--                                      then keeps its expiry
--
-- include: fence.lua

local lease = load_lease()
if not lease then
  return {'missing'}
end
if not lease.deleted then
  -- UNLINK first: it takes no memory, so a full store lets the rest of the script pass.
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'schema_version', ARGV[3], 'born', string.format('%.0f', lease.born),
    'epoch', string.format('%.0f', lease.epoch + 1), 'deleted', ARGV[1],
    'incarnation', lease.incarnation, 'slot', lease.slot, 'address', lease.address)
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', now_ms() + tonumber(ARGV[2])))
end
return {'ok', lease.incarnation, lease.slot, lease.address}
