-- table: the membership table as it is now. Reads only.
--
-- KEYS[1]  hash    the table
-- KEYS[2]  hash    the beats (not used)
--
-- {ring_version, {field, value, ...}}
--
-- include: members.lua

return table_reply()
