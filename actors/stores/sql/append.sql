-- append: turns that Redis has acknowledged, in one piece. Under the row's lock, as commit: only the holder may append,
-- and only what follows on the log. A repeat, whole or in part, appends what is missing.
--
-- _epoch         of the caller's lease
-- _token         of the caller's lease
-- _born          of the caller's lease
-- _turn_seq      turns in the caller's log, with these
-- _last_turn_id  the last of them, empty if there is none
-- _previous_id   of the turn before these, empty if there is none
-- _turn_ids      of these turns, in their order; may be none, which only tells the end of hot
-- _fingerprints  of their messages
-- _records       the turns as bytes
-- _ttl_ms        expiry of the session, 0 = never
-- _state         the agent's state after the last of them as bytes; null = unchanged
-- _hot           Redis may go on to acknowledge turns before they are here; only commit begins that
--
-- deleted
-- fenced     incarnation, slot, address, epoch, turn_seq
-- regressed  turn_seq
-- ok         hot        renews the expiry if it has appended something. takeovers stay: these turns are older than them
CREATE OR REPLACE FUNCTION rehydra.append(
  _tenant text, _session_id text, _epoch bigint, _token text, _born bigint, _turn_seq bigint, _last_turn_id bytea,
  _previous_id bytea, _turn_ids bytea[], _fingerprints text[], _records bytea[], _ttl_ms bigint, _state bytea,
  _hot boolean,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT epoch bigint, OUT turn_seq bigint,
  OUT hot boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  lease record;
  known boolean;
  alive boolean;
  now_ms bigint;
  ends_ms bigint;
  prefix boolean;
  refusal text;
  base bigint := _turn_seq - cardinality(_turn_ids);
  have bigint;
BEGIN
  -- include: lock.sql
  -- include: refuse.sql

  hot := lease.hot;
  IF prefix AND lease.turn_seq > _turn_seq THEN
    -- A late repeat: they are here, and what came after them said more recently whether the session is hot.
    answer := 'ok';
    RETURN;
  END IF;
  have := lease.turn_seq - base;
  IF have < 0 OR lease.turn_seq > _turn_seq
     OR lease.last_turn_id <> (CASE WHEN have = 0 THEN _previous_id ELSE _turn_ids[have] END) THEN
    answer := 'regressed';
    RETURN;
  END IF;
  answer := 'ok';
  hot := lease.hot AND _hot;
  IF lease.turn_seq < _turn_seq THEN
    INSERT INTO rehydra.turns (life, turn_seq, turn_id, fingerprint, record)
    SELECT lease.life, base + given.number, given.turn_id, given.fingerprint, given.record
      FROM unnest(_turn_ids, _fingerprints, _records) WITH ORDINALITY AS given (turn_id, fingerprint, record, number)
     WHERE given.number > have;
    ends_ms := now_ms + nullif(_ttl_ms, 0);
    UPDATE rehydra.sessions AS s
       SET turn_seq = _turn_seq, last_turn_id = _last_turn_id, state = coalesce(_state, s.state), hot = lease.hot AND _hot,
           expires_ms = ends_ms, sweep_hour = rehydra.sweep_hour(ends_ms)
     WHERE s.tenant = _tenant AND s.session_id = _session_id;
  ELSIF hot <> lease.hot THEN
    UPDATE rehydra.sessions AS s SET hot = false WHERE s.tenant = _tenant AND s.session_id = _session_id;
  END IF;
END $$;
