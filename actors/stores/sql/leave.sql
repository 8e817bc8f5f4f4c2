-- leave: give one's own slot back, to a spare if one waits. Under the lock of the table, because the slot must still be
-- one's own when it is freed.
--
-- _incarnation  of the host that leaves
-- _gone         true: forget its beats too; false: it goes on beating while it drains
--
-- ring_version, slots, records   the table; unchanged if the host had no slot
CREATE OR REPLACE FUNCTION rehydra.leave(
  _incarnation text, _gone boolean, OUT ring_version bigint, OUT slots text[], OUT records bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  freed integer;
BEGIN
  PERFORM FROM rehydra.ring FOR UPDATE;
  DELETE FROM rehydra.members AS m WHERE m.incarnation = _incarnation RETURNING m.number INTO freed;
  IF FOUND THEN
    PERFORM rehydra.hand_on(freed);
    PERFORM rehydra.changed();
  END IF;
  DELETE FROM rehydra.spares AS s WHERE s.incarnation = _incarnation;
  IF _gone THEN
    DELETE FROM rehydra.beats AS b WHERE b.incarnation = _incarnation;
  END IF;
  -- include: table_answer.sql
END $$;
