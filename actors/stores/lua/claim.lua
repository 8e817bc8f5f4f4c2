-- claim: take the lease and load the session. Atomic, because a holder that is found must still hold it when it is
-- written over, and because what is loaded must be what the new epoch starts from.
--
-- KEYS[1]  hash    the lease
-- KEYS[2]  list    the log
-- KEYS[3]  hash    the ids
-- ARGV[1]  token             random for every claim, never empty
-- ARGV[2]  incarnation       of the host that claims
-- ARGV[3]  slot              of that host, may be empty
-- ARGV[4]  address           of that host, host:port
-- ARGV[5]  over incarnation  the dead holder to take over from, or empty
-- ARGV[6]  over epoch        the epoch that was seen with it, or 0
-- ARGV[7]  ttl_ms            expiry of the session, 0 = never
-- ARGV[8]  schema_version    the newest that the caller can read
-- ARGV[9]  window            most turns to load, the last ones; 0 = all
--
-- {'granted', epoch, born, takeovers, suspects, turn_seq, state, {record, ...}}   renews the expiry
--                    suspects: turn ids, one per line and death; SUSPECTS_BYTES_MAX as in stores/base.py
-- {'held', incarnation, slot, address, epoch}
-- {'deleted'}
-- {'newer', schema_version}                                             written by a newer program
--
-- include: fence.lua

local token, incarnation = ARGV[1], ARGV[2]
local lease = load_lease()
local epoch, born, takeovers
local suspects = ''
local SUSPECTS_BYTES_MAX = 8192

if not lease then
  -- From the clock: an epoch must not restart low, or a holder of the expired session would seem to be current.
  born = now_ms()
  epoch = born
  takeovers = 0
else
  if lease.schema_version > tonumber(ARGV[8]) then
    return {'newer', lease.schema_version}
  end
  if lease.deleted then
    return {'deleted'}
  end
  epoch, born, takeovers = lease.epoch, lease.born, lease.takeovers
  local held = lease.incarnation ~= ''
  if not (held and lease.token == token) then
    if held and lease.incarnation ~= incarnation then
      if not (lease.incarnation == ARGV[5] and lease.epoch == tonumber(ARGV[6])) then
        return {'held', lease.incarnation, lease.slot, lease.address, lease.epoch}
      end
      takeovers = takeovers + 1
    end
    epoch = epoch + 1
  end
  if takeovers > 0 then
    -- What was noted while there had been no takeover since the last commit or release is stale.
    local noted = redis.call('HMGET', KEYS[1], 'running', 'suspects')
    local running, counted = noted[1] or '', lease.takeovers > 0
    suspects = counted and noted[2] or ''
    if takeovers > lease.takeovers then
      if counted and running ~= '' then
        suspects = suspects ~= '' and suspects .. '\n' .. running or running
        while #suspects >= SUSPECTS_BYTES_MAX do
          suspects = string.match(suspects, '\n(.*)$') or ''
        end
      end
      redis.call('HSET', KEYS[1], 'suspects', suspects)
      redis.call('HDEL', KEYS[1], 'running')
    end
  end
end

redis.call('HSET', KEYS[1], 'schema_version', ARGV[8], 'born', string.format('%.0f', born),
  'epoch', string.format('%.0f', epoch), 'takeovers', takeovers,
  'token', token, 'incarnation', incarnation, 'slot', ARGV[3], 'address', ARGV[4])
if not lease then
  redis.call('UNLINK', KEYS[2], KEYS[3])
end
renew(tonumber(ARGV[7]))
local turn_seq, window = lease and lease.turn_seq or 0, tonumber(ARGV[9])
-- Counted from the front, which takes as long: of a log that has lost turns too few would come, and be noticed.
local first = window > 0 and math.max(0, turn_seq - window) or 0
return {'granted', epoch, born, takeovers, suspects, turn_seq, redis.call('HGET', KEYS[1], 'state') or '',
  redis.call('LRANGE', KEYS[2], first, -1)}
