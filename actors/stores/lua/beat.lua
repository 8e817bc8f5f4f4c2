-- beat: I am alive. One step, so that the beats and the ring_version that a host acts on belong together.
--
-- KEYS[1]  hash    the table
-- KEYS[2]  hash    the beats
-- ARGV[1]  incarnation          of the host that beats
-- ARGV[2]  state                serving, spare or draining
-- ARGV[3]  address              of that host, host:port
-- ARGV[4]  known ring_version   the table comes along if it has another one now
-- ARGV[5]  keep_ms              a host outside of the table is forgotten after so long a silence; all beats are, if
--                               nobody beats for as long
--
-- {ring_version, listed 0 or 1, waits 0 or 1, {incarnation, "<counter> <seen_ms> <state> <address>", ...},
--  {field, value, ...}}         the last is empty if the table is known
--
-- include: members.lua

local incarnation, keep_ms = ARGV[1], tonumber(ARGV[5])
local now = now_ms()
local last = redis.call('HGET', KEYS[2], incarnation)
-- A first count at the clock, so that one who was forgotten never seems to go backwards.
local counter = last and tonumber(string.match(last, '^%d+')) + 1 or now
-- A full store refuses the first command that takes memory, but none that comes after another that writes. Beats must go
-- on there: whoever can't beat is soon trusted by nobody, and can't even say that the store is full.
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('HSET', KEYS[2], incarnation, string.format('%.0f %.0f %s %s', counter, now, ARGV[2], ARGV[3]))
redis.call('PEXPIRE', KEYS[2], ARGV[5])

local beats = {}
local all = redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  local seen_ms = tonumber(string.match(all[at + 1], '^%d+ (%d+)'))
  if seen_ms + keep_ms < now and redis.call('HEXISTS', KEYS[1], 'host:' .. all[at]) == 0 then
    redis.call('HDEL', KEYS[2], all[at])
  else
    beats[#beats + 1] = all[at]
    beats[#beats + 1] = all[at + 1]
  end
end

local version = ring_version()
local table_fields = {}
if version ~= tonumber(ARGV[4]) then
  table_fields = redis.call('HGETALL', KEYS[1])
end
local listed = redis.call('HEXISTS', KEYS[1], 'host:' .. incarnation)
local waits = redis.call('HEXISTS', KEYS[1], 'spare:' .. incarnation)
return {version, listed, waits, beats, table_fields}
