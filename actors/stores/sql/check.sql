-- check: does the lease still stand? Notes, if asked to, which turn its holder runs now. Under the row's lock, because
-- the note must be that of the holder, and because the log must be that of the lease which was looked at.
--
-- _epoch         of the caller's lease
-- _token         of the caller's lease
-- _born          of the caller's lease
-- _turn_seq      turns in the caller's log
-- _last_turn_id  the last of them, empty if there is none
-- _running       id of the turn to note, or empty
-- _refused       id of the turn that is going to be called not done, or empty
--
-- deleted
-- fenced     incarnation, slot, address, epoch, turn_seq   incarnation empty: nobody; epoch 0: expired
-- regressed  turn_seq
-- replayed   record                                        one of these two turns is in the log; nothing is noted
-- ok
CREATE OR REPLACE FUNCTION rehydra.check(
  _tenant text, _session_id text, _epoch bigint, _token text, _born bigint, _turn_seq bigint, _last_turn_id bytea,
  _running bytea, _refused bytea,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT epoch bigint, OUT turn_seq bigint,
  OUT record bytea
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  lease record;
  known boolean;
  alive boolean;
  now_ms bigint;
  prefix boolean;
  refusal text;
BEGIN
  -- include: lock.sql
  -- include: refuse.sql

  IF NOT prefix THEN
    answer := 'regressed';
    RETURN;
  END IF;
  IF _running <> '' OR _refused <> '' THEN
    SELECT t.record INTO record
      FROM rehydra.turns AS t
     WHERE t.life = lease.life AND t.turn_id = CASE WHEN _running <> '' THEN _running ELSE _refused END;
    IF FOUND THEN
      answer := 'replayed';
      RETURN;
    END IF;
  END IF;
  answer := 'ok';
  IF _running <> '' THEN
    UPDATE rehydra.sessions AS s SET running = _running WHERE s.tenant = _tenant AND s.session_id = _session_id;
  END IF;
END $$;
