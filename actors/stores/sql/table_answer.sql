  -- Put in place of "-- include: table_answer.sql". One statement, so that all of it is of one moment.
  SELECT r.ring_version,
         ARRAY(SELECT m.slot FROM rehydra.members AS m ORDER BY m.number),
         ARRAY(SELECT m.record FROM rehydra.members AS m ORDER BY m.number)
    INTO ring_version, slots, records
    FROM rehydra.ring AS r;
