  -- Put in place of "-- include: fence.sql", after lock.sql. prefix: whether a log of _turn_seq turns, the last of them
  -- _last_turn_id, is a prefix of the log in the store. refusal: null if epoch and token are current.
  prefix := _turn_seq = 0 OR (_turn_seq = lease.turn_seq AND _last_turn_id = lease.last_turn_id);
  IF NOT prefix THEN
    prefix := EXISTS (
      SELECT FROM rehydra.turns AS t
       WHERE t.life = lease.life AND t.turn_id = _last_turn_id AND t.turn_seq = _turn_seq);
  END IF;
  refusal := CASE
    -- Another born: the session expired and began anew. Its log says nothing about the caller's.
    WHEN lease.born <> _born THEN 'fenced'
    WHEN _epoch > lease.epoch THEN 'regressed'
    WHEN _epoch = lease.epoch AND _token = lease.token AND lease.incarnation <> '' THEN NULL
    WHEN NOT prefix THEN 'regressed'
    ELSE 'fenced' END;
