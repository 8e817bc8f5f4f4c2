-- What a script sees of a turn's record and of packed turn ids. Put in place of the line "-- include: record.lua"; the
-- layouts are those of stores/codec.py and, from the tenant on, actors/record.py.

local HEX = '%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x%02x'
local UUID = '%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x'
local ID_FORMS = {[0] = 'k:' .. HEX, 'r:' .. HEX, 'k:' .. UUID, 'r:' .. UUID}

-- A turn id as it is written, of the bytes that actors/record.py packs it into.
local function written_id(packed)
  local form = ID_FORMS[string.byte(packed)]
  return form and string.format(form, string.byte(packed, 2, 17)) or packed
end

-- turn_seq, turn id and fingerprint of a record.
local function look_into(record)
  local turn_seq, tenant = struct.unpack('<I4B', record, 2)
  local at = 7 + tenant + 24
  local id, fingerprint = 17, 16
  if string.byte(record, at) == 1 then
    at = at + 1
  else
    id, fingerprint = struct.unpack('<I2B', record, at + 1)
    at = at + 8
  end
  local printed = string.sub(record, at + id, at + id + fingerprint - 1)
  return turn_seq, written_id(string.sub(record, at, at + id - 1)),
    fingerprint == 16 and string.format(HEX, string.byte(printed, 1, 16)) or printed
end
