-- What the scripts of the membership share. Put in place of the line "-- include: members.lua"; not a script of its own.
--
-- KEYS[1]  hash    the table: ring_version; "slot:<slot>" -> record of the member; "host:<incarnation>" -> its slot
-- KEYS[2]  hash    the beats: incarnation -> "<counter> <seen_ms> <state> <address>"
--
-- The answer of every script that ends with "return table_reply()":
-- {ring_version, {field, value, field, value, ...}}   the fields of KEYS[1]; ring_version 0: there never was a member

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function ring_version()
  return tonumber(redis.call('HGET', KEYS[1], 'ring_version') or 0)
end

-- Called after every change of the table, and only then.
local function changed()
  local known = ring_version()
  -- From the clock when the table is new, so that after a loss of all data no host takes it for an older one.
  local next_version = known == 0 and now_ms() or known + 1
  redis.call('HSET', KEYS[1], 'ring_version', string.format('%.0f', next_version))
end

local function table_reply()
  return {ring_version(), redis.call('HGETALL', KEYS[1])}
end
