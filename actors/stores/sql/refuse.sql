  -- Put in place of "-- include: refuse.sql", after lock.sql: answers where there is no session, or none that the
  -- caller may touch. Afterwards the lease is known to be the caller's, and prefix is set (see fence.sql).
  turn_seq := 0;
  IF NOT alive THEN
    answer := 'fenced';
    incarnation := '';
    epoch := 0;
    RETURN;
  END IF;
  IF lease.deleted THEN
    answer := 'deleted';
    RETURN;
  END IF;
  turn_seq := lease.turn_seq;
  -- include: fence.sql
  IF refusal IS NOT NULL THEN
    answer := refusal;
    incarnation := lease.incarnation;
    slot := lease.slot;
    address := lease.address;
    epoch := lease.epoch;
    RETURN;
  END IF;
