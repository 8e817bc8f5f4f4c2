-- join: take the lowest free slot, or wait as a spare for the first that falls free. Under the lock of the table,
-- because two hosts that start at one moment must not take the same one.
--
-- _incarnation  of the host that joins
-- _record       of the member, without its slot
-- _slots_max    slots are slot-0 to slot-<_slots_max - 1>
--
-- ring_version, slots, records   the table; unchanged if the host has a slot already or none is free
CREATE OR REPLACE FUNCTION rehydra.join(
  _incarnation text, _record bytea, _slots_max integer,
  OUT ring_version bigint, OUT slots text[], OUT records bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  free integer;
BEGIN
  PERFORM FROM rehydra.ring FOR UPDATE;
  IF NOT EXISTS (SELECT FROM rehydra.members AS m WHERE m.incarnation = _incarnation) THEN
    SELECT n INTO free
      FROM generate_series(0, _slots_max - 1) AS n
     WHERE NOT EXISTS (SELECT FROM rehydra.members AS m WHERE m.number = n)
     ORDER BY n
     LIMIT 1;
    IF FOUND THEN
      DELETE FROM rehydra.spares AS s WHERE s.incarnation = _incarnation;
      INSERT INTO rehydra.members (number, slot, incarnation, record)
      VALUES (free, 'slot-' || free, _incarnation, _record);
      PERFORM rehydra.changed();
    ELSE
      INSERT INTO rehydra.spares (incarnation, slots_max, record) VALUES (_incarnation, _slots_max, _record)
      ON CONFLICT (incarnation) DO UPDATE SET slots_max = excluded.slots_max, record = excluded.record;
    END IF;
  END IF;
  -- include: table_answer.sql
END $$;
