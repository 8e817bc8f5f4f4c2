-- What the scripts of the membership share. Put in place of the line "-- include: members.lua"; not a script of its own.
--
-- KEYS[1]  hash    the table: ring_version; "slot:<slot>" -> record of the member; "host:<incarnation>" -> its slot;
--                  "spare:<incarnation>" -> "<slots_max> <record>" of a host that found no slot free
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

-- The spare that beat last inherits a slot that falls free, in the same step: no table ever lacks the slot, so that its
-- sessions move once, from the old host to the new. A spare without a beat has gone.
local function hand_on(slot)
  local number = tonumber(string.match(slot, '%d+$'))
  local heir, heir_ms, heirs_record
  local fields = redis.call('HGETALL', KEYS[1])
  for at = 1, #fields, 2 do
    local spare = string.match(fields[at], '^spare:(.*)$')
    if spare then
      local seen_ms, state = string.match(redis.call('HGET', KEYS[2], spare) or '', '^%d+ (%d+) (%a+)')
      local slots_max, record = string.match(fields[at + 1], '^(%d+) (.*)$')
      if not seen_ms then
        redis.call('HDEL', KEYS[1], fields[at])
      elseif state == 'spare' and number < tonumber(slots_max) and (not heir or tonumber(seen_ms) > heir_ms) then
        heir, heir_ms, heirs_record = spare, tonumber(seen_ms), record
      end
    end
  end
  if heir then
    redis.call('HDEL', KEYS[1], 'spare:' .. heir)
    redis.call('HSET', KEYS[1], 'slot:' .. slot, heirs_record, 'host:' .. heir, slot)
  end
end

local function table_reply()
  return {ring_version(), redis.call('HGETALL', KEYS[1])}
end
