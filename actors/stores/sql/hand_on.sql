-- hand_on: the spare that beat last inherits a slot that falls free, in the same transaction: no table ever lacks the
-- slot, so that its sessions move once, from the old host to the new. A spare without a beat has gone.
CREATE OR REPLACE FUNCTION rehydra.hand_on(_number integer) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  heir record;
BEGIN
  DELETE FROM rehydra.spares AS s
   WHERE NOT EXISTS (SELECT FROM rehydra.beats AS b WHERE b.incarnation = s.incarnation);
  SELECT s.incarnation, s.record INTO heir
    FROM rehydra.spares AS s JOIN rehydra.beats AS b ON b.incarnation = s.incarnation
   WHERE b.state = 'spare' AND s.slots_max > _number
   ORDER BY b.seen_ms DESC, s.incarnation DESC
   LIMIT 1;
  IF FOUND THEN
    DELETE FROM rehydra.spares AS s WHERE s.incarnation = heir.incarnation;
    INSERT INTO rehydra.members (number, slot, incarnation, record)
    VALUES (_number, 'slot-' || _number, heir.incarnation, heir.record);
  END IF;
END $$;
