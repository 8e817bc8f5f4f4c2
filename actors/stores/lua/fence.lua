-- What the scripts of a session share. Put in place of the line "-- include: fence.lua"; not a script of its own.
--
-- KEYS[1]  hash    the lease: schema_version, born, epoch, takeovers, turn_seq, last_turn_id, state;
--                  token, incarnation, slot, address (all four absent while nobody holds it);
--                  running, suspects (turn ids, see check and claim; they say something while takeovers > 0 only);
--                  deleted (present in a tombstone, which has nothing else but schema_version, born, epoch, and
--                  incarnation, slot, address of who held the lease, empty if nobody did)
-- KEYS[2]  list    the log: one record per turn, in order of turn_seq, which counts from 1
-- KEYS[3]  hash    the ids: turn_id -> "<turn_seq>:<fingerprint>", one field per record of the log
--
-- No script declares flags ("#!lua"): with them a full store would refuse the whole script before it has looked for
-- a known turn id. Without, it refuses the first command that takes memory, so that command comes before all others
-- that write, and a refused script has written nothing.

-- The lease with its numbers as numbers, or nil where there is no session.
local function load_lease()
  local field = redis.call('HMGET', KEYS[1], 'epoch', 'born', 'token', 'incarnation', 'slot', 'address', 'takeovers',
    'turn_seq', 'last_turn_id', 'deleted', 'schema_version')
  if not field[1] then
    return nil
  end
  return {
    epoch = tonumber(field[1]),
    born = tonumber(field[2]),
    token = field[3] or '',
    incarnation = field[4] or '',
    slot = field[5] or '',
    address = field[6] or '',
    takeovers = tonumber(field[7] or 0),
    turn_seq = tonumber(field[8] or 0),
    last_turn_id = field[9] or '',
    deleted = field[10],
    schema_version = tonumber(field[11] or 0),
  }
end

-- Whether a log of turn_seq turns, the last of them last_turn_id, is a prefix of the log in the store.
local function begins_with(lease, turn_seq, last_turn_id)
  if turn_seq == 0 or (turn_seq == lease.turn_seq and last_turn_id == lease.last_turn_id) then
    return true
  end
  local known = redis.call('HGET', KEYS[3], last_turn_id)
  return known and tonumber(string.match(known, '^%d+')) == turn_seq
end

-- nil if epoch and token are current, else the answer for a caller whose log ends with turn_seq and last_turn_id.
local function fence(lease, epoch, token, born, turn_seq, last_turn_id)
  if not lease then
    return {'fenced', '', '', '', 0, 0}
  end
  -- Another born: the session expired and began anew. Its log says nothing about the caller's.
  if lease.born == born then
    if epoch > lease.epoch then
      return {'regressed', lease.turn_seq}
    end
    if epoch == lease.epoch and token == lease.token and lease.incarnation ~= '' then
      return nil
    end
    if not begins_with(lease, turn_seq, last_turn_id) then
      return {'regressed', lease.turn_seq}
    end
  end
  return {'fenced', lease.incarnation, lease.slot, lease.address, lease.epoch, lease.turn_seq}
end

-- The store's TIME in ms.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- One moment of expiry for all keys of the session; ttl_ms 0 = never. Absolute, so that they go together.
local function renew(ttl_ms)
  local expires_ms = string.format('%.0f', now_ms() + ttl_ms)
  for _, key in ipairs(KEYS) do
    if ttl_ms == 0 then
      redis.call('PERSIST', key)
    else
      redis.call('PEXPIREAT', key, expires_ms)
    end
  end
end
