-- evict: take a slot from that very incarnation, for a spare if one waits, and forget its beats. Under the lock of the
-- table, because whoever holds the slot by now must not lose it.
--
-- _slot
-- _incarnation  that was found dead
--
-- ring_version, slots, records   the table; unchanged, as the beats are, if the slot is not its any more
CREATE OR REPLACE FUNCTION rehydra.evict(
  _slot text, _incarnation text, OUT ring_version bigint, OUT slots text[], OUT records bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  freed integer;
BEGIN
  PERFORM FROM rehydra.ring FOR UPDATE;
  DELETE FROM rehydra.members AS m WHERE m.slot = _slot AND m.incarnation = _incarnation RETURNING m.number INTO freed;
  IF FOUND THEN
    DELETE FROM rehydra.beats AS b WHERE b.incarnation = _incarnation;
    PERFORM rehydra.hand_on(freed);
    PERFORM rehydra.changed();
  END IF;
  -- include: table_answer.sql
END $$;
