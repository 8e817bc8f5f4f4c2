-- delete: log, state and ids can't be found any more, the epoch grows, a tombstone stays, which says who had the lease.
-- Under the row's lock: a commit that comes at the same moment finds either the session or the tombstone. The turns
-- themselves are swept: a log may be longer than what a call has time for.
--
-- _tombstone_ms    how long the tombstone stays, above 0
-- _schema_version  under which it is written
--
-- missing
-- ok       incarnation, slot, address, hot   of who held it, empty: nobody. Also if it is deleted already; its
--                                            tombstone then keeps its expiry
CREATE OR REPLACE FUNCTION rehydra.delete(
  _tenant text, _session_id text, _tombstone_ms bigint, _schema_version integer,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT hot boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  lease record;
  known boolean;
  alive boolean;
  now_ms bigint;
BEGIN
  -- include: lock.sql
  IF NOT alive THEN
    answer := 'missing';
    RETURN;
  END IF;
  IF NOT lease.deleted THEN
    INSERT INTO rehydra.remains (life) VALUES (lease.life);
    UPDATE rehydra.sessions AS s
       SET schema_version = _schema_version, life = nextval('rehydra.lives'), epoch = s.epoch + 1, deleted = true,
           token = '', takeovers = 0, running = '', suspects = '{}', turn_seq = 0, last_turn_id = '', state = '',
           expires_ms = now_ms + _tombstone_ms, sweep_hour = rehydra.sweep_hour(now_ms + _tombstone_ms)
     WHERE s.tenant = _tenant AND s.session_id = _session_id;
  END IF;
  answer := 'ok';
  incarnation := lease.incarnation;
  slot := lease.slot;
  address := lease.address;
  hot := lease.hot;
END $$;
