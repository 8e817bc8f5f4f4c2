-- claim: take the lease and load the session. Under the row's lock, because a holder that is found must still hold it
-- when it is written over, and because what is loaded must be what the new epoch starts from.
--
-- _token             random for every claim, never empty
-- _incarnation       of the host that claims
-- _slot              of that host, may be empty
-- _address           of that host, host:port
-- _over_incarnation  the dead holder to take over from, or empty
-- _over_epoch        the epoch that was seen with it, or 0
-- _ttl_ms            expiry of the session, 0 = never
-- _schema_version    the newest that the caller can read
-- _suspects_max      bytes of suspects to keep, with one more for each
-- _window            most turns to load, the last ones; 0 = all
-- _hybrid            the caller looks into Redis too: it gets no records, which it has there or reads later
--
-- granted   epoch, born, takeovers, suspects, turn_seq, last_turn_id, state, hot, records   renews the expiry
-- held      incarnation, slot, address, epoch
-- deleted
-- newer     schema_version                                               written by a newer program
-- hot                                                                    turns may be in Redis alone
CREATE OR REPLACE FUNCTION rehydra.claim(
  _tenant text, _session_id text, _token text, _incarnation text, _slot text, _address text,
  _over_incarnation text, _over_epoch bigint, _ttl_ms bigint, _schema_version integer, _suspects_max bigint,
  _window bigint, _hybrid boolean,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT schema_version integer,
  OUT epoch bigint, OUT born bigint, OUT takeovers bigint, OUT suspects bytea[], OUT turn_seq bigint,
  OUT last_turn_id bytea, OUT state bytea, OUT hot boolean, OUT records bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  lease record;
  known boolean;
  alive boolean;
  now_ms bigint;
  ends_ms bigint;
BEGIN
  LOOP
    -- include: lock.sql
    EXIT WHEN known;
    -- Of two that begin a session at one moment the second waits here for the first, inserts nothing, and looks again.
    INSERT INTO rehydra.sessions (tenant, session_id, schema_version, life, born, epoch)
    VALUES (_tenant, _session_id, _schema_version, nextval('rehydra.lives'), now_ms, now_ms - 1)
    ON CONFLICT (tenant, session_id) DO NOTHING;
  END LOOP;

  IF NOT alive THEN
    -- Its row is used again, so that whoever waits for its lock finds the new life and not nothing. From the clock: an
    -- epoch must not restart low, or a holder of the expired life would seem to be current.
    INSERT INTO rehydra.remains (life) VALUES (lease.life);
    lease.life := nextval('rehydra.lives');
    lease.born := greatest(now_ms, lease.epoch + 1);
    lease.epoch := lease.born;
    lease.takeovers := 0;
    lease.running := '';
    lease.turn_seq := 0;
    lease.last_turn_id := '';
    lease.hot := false;
    UPDATE rehydra.sessions AS s
       SET life = lease.life, born = lease.born, turn_seq = 0, last_turn_id = '', state = '', deleted = false,
           hot = false
     WHERE s.tenant = _tenant AND s.session_id = _session_id;
  ELSIF lease.schema_version > _schema_version THEN
    answer := 'newer';
    schema_version := lease.schema_version;
    RETURN;
  ELSIF lease.deleted THEN
    answer := 'deleted';
    RETURN;
  ELSIF lease.hot AND NOT _hybrid THEN
    answer := 'hot';
    RETURN;
  ELSIF lease.incarnation <> '' AND lease.token = _token THEN
    NULL;  -- A repeat: the same grant again.
  ELSIF lease.incarnation IN ('', _incarnation) THEN
    lease.epoch := lease.epoch + 1;
  ELSIF lease.incarnation <> _over_incarnation OR lease.epoch <> _over_epoch THEN
    answer := 'held';
    incarnation := lease.incarnation;
    slot := lease.slot;
    address := lease.address;
    epoch := lease.epoch;
    RETURN;
  ELSE
    -- What was noted while there had been no takeover since the last commit or release is stale.
    IF lease.takeovers = 0 THEN
      lease.suspects := '{}';
    ELSIF lease.running <> '' THEN
      lease.suspects := lease.suspects || lease.running;
      WHILE (SELECT sum(length(suspect) + 1) FROM unnest(lease.suspects) AS suspect) > _suspects_max LOOP
        lease.suspects := lease.suspects[2:];
      END LOOP;
    END IF;
    lease.running := '';
    lease.takeovers := lease.takeovers + 1;
    lease.epoch := lease.epoch + 1;
  END IF;

  IF lease.takeovers = 0 THEN
    lease.suspects := '{}';
  END IF;
  ends_ms := now_ms + nullif(_ttl_ms, 0);
  UPDATE rehydra.sessions AS s
     SET schema_version = _schema_version, epoch = lease.epoch, token = _token, incarnation = _incarnation,
         slot = _slot, address = _address, takeovers = lease.takeovers, running = lease.running,
         suspects = lease.suspects, expires_ms = ends_ms, sweep_hour = rehydra.sweep_hour(ends_ms)
   WHERE s.tenant = _tenant AND s.session_id = _session_id
  RETURNING s.state INTO state;
  answer := 'granted';
  epoch := lease.epoch;
  born := lease.born;
  takeovers := lease.takeovers;
  suspects := lease.suspects;
  turn_seq := lease.turn_seq;
  last_turn_id := lease.last_turn_id;
  hot := lease.hot;
  IF NOT _hybrid THEN
    -- Told apart by their numbers: of a log that has lost turns too few come, which the caller notices.
    records := ARRAY(
      SELECT t.record FROM rehydra.turns AS t
       WHERE t.life = lease.life AND t.turn_seq > CASE WHEN _window > 0 THEN lease.turn_seq - _window ELSE 0 END
       ORDER BY t.turn_seq);
  END IF;
END $$;
