-- release: holder := nobody; the epoch stays. Under the row's lock, because only a current lease may be given back.
--
-- _epoch         of the caller's lease
-- _token         of the caller's lease
-- _born          of the caller's lease
-- _turn_seq      turns in the caller's log
-- _last_turn_id  the last of them, empty if there is none
--
-- _hot          a commit of the caller may still be on its way to Redis
--
-- deleted
-- fenced     incarnation, slot, address, epoch, turn_seq
-- regressed  turn_seq   the caller's log is not a prefix of the store's; the lease is given back all the same
-- ok                    also if it was released already, or has expired
CREATE OR REPLACE FUNCTION rehydra.release(
  _tenant text, _session_id text, _epoch bigint, _token text, _born bigint, _turn_seq bigint, _last_turn_id bytea,
  _hot boolean,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT epoch bigint, OUT turn_seq bigint
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
  answer := 'ok';
  turn_seq := 0;
  IF NOT alive THEN
    RETURN;
  END IF;
  IF lease.deleted THEN
    answer := 'deleted';
    RETURN;
  END IF;
  turn_seq := lease.turn_seq;
  -- include: fence.sql
  -- A repeat finds it given back already.
  IF refusal IS NOT NULL AND (lease.incarnation <> '' OR lease.born <> _born OR lease.epoch <> _epoch) THEN
    answer := refusal;
    incarnation := lease.incarnation;
    slot := lease.slot;
    address := lease.address;
    epoch := lease.epoch;
    RETURN;
  END IF;
  IF lease.incarnation <> '' THEN
    -- A host that gives its lease back wasn't killed by what it ran.
    UPDATE rehydra.sessions AS s
       SET token = '', incarnation = '', slot = '', address = '', takeovers = 0, hot = s.hot AND _hot
     WHERE s.tenant = _tenant AND s.session_id = _session_id;
  END IF;
  IF NOT prefix THEN
    answer := 'regressed';
  END IF;
END $$;
