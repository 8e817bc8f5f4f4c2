-- commit: append one turn; the only way into the log. Under the row's lock, because between the fence and the append no
-- other epoch may begin, and because a turn id must be known as soon as its turn is.
--
-- _epoch         of the caller's lease
-- _token         of the caller's lease
-- _born          of the caller's lease
-- _turn_seq      turns in the caller's log, without the new one
-- _last_turn_id  the last of them, empty if there is none
-- _turn_id       of the new turn
-- _fingerprint   of its message
-- _record        the new turn as bytes
-- _ttl_ms        expiry of the session, 0 = never
-- _state         the agent's state as bytes; null = unchanged
-- _hot           from now on Redis may acknowledge turns before they are here
--
-- Checked in this order:
-- deleted
-- fenced     incarnation, slot, address, epoch, turn_seq   incarnation empty: nobody; epoch 0: expired
-- regressed  turn_seq
-- mismatch                                                 the turn id is known with another fingerprint
-- replayed   record                                        the turn id is known with this fingerprint
-- regressed  turn_seq                                      the caller's log is not a prefix of the store's
-- ahead      turn_seq                                      the store's log is longer than the caller's
-- ok                                                       renews the expiry, takeovers := 0
CREATE OR REPLACE FUNCTION rehydra.commit(
  _tenant text, _session_id text, _epoch bigint, _token text, _born bigint, _turn_seq bigint, _last_turn_id bytea,
  _turn_id bytea, _fingerprint text, _record bytea, _ttl_ms bigint, _state bytea, _hot boolean,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT epoch bigint, OUT turn_seq bigint,
  OUT record bytea
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
  known_turn record;
BEGIN
  -- include: lock.sql
  -- include: refuse.sql

  SELECT t.fingerprint, t.record INTO known_turn
    FROM rehydra.turns AS t WHERE t.life = lease.life AND t.turn_id = _turn_id;
  IF FOUND AND known_turn.fingerprint <> _fingerprint THEN
    answer := 'mismatch';
  ELSIF FOUND THEN
    answer := 'replayed';
    record := known_turn.record;
  ELSIF NOT prefix THEN
    answer := 'regressed';
  ELSIF lease.turn_seq > _turn_seq THEN
    answer := 'ahead';
  ELSE
    answer := 'ok';
    ends_ms := now_ms + nullif(_ttl_ms, 0);
    INSERT INTO rehydra.turns (life, turn_seq, turn_id, fingerprint, record)
    VALUES (lease.life, _turn_seq + 1, _turn_id, _fingerprint, _record);
    UPDATE rehydra.sessions AS s
       SET turn_seq = _turn_seq + 1, last_turn_id = _turn_id, takeovers = 0, state = coalesce(_state, s.state),
           hot = _hot, expires_ms = ends_ms, sweep_hour = rehydra.sweep_hour(ends_ms)
     WHERE s.tenant = _tenant AND s.session_id = _session_id;
  END IF;
END $$;
