  -- Put in place of "-- include: lock.sql". The row is locked first and everything else is read after it: under READ
  -- COMMITTED each statement of a volatile function sees what was committed before that statement began, so what
  -- follows sees all that the transactions before this one in the row's queue have done. Never look at another table
  -- in the statement that locks: it would be looked at as it was before the wait.
  SELECT s.life, s.schema_version, s.born, s.epoch, s.token, s.incarnation, s.slot, s.address, s.takeovers, s.running,
         s.suspects, s.turn_seq, s.last_turn_id, s.deleted, s.expires_ms, s.hot
    INTO lease
    FROM rehydra.sessions AS s
   WHERE s.tenant = _tenant AND s.session_id = _session_id
     FOR UPDATE;
  known := FOUND;
  -- After the wait, not when the transaction began.
  now_ms := rehydra.time_ms();
  alive := known AND (lease.expires_ms IS NULL OR lease.expires_ms > now_ms);
