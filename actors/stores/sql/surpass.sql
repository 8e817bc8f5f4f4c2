-- surpass: the caller's epoch becomes greater than one that was found in Redis, which is there only if this database has
-- lost what it had confirmed, or if the caller's lease isn't current. Under the row's lock, as claim.
--
-- _epoch  of the caller's lease
-- _token  of the caller's lease
-- _found  the epoch in Redis
--
-- ok      epoch
-- fenced  incarnation, slot, address, epoch   incarnation empty: nobody; epoch 0: expired, or deleted
CREATE OR REPLACE FUNCTION rehydra.surpass(
  _tenant text, _session_id text, _epoch bigint, _token text, _found bigint,
  OUT answer text, OUT incarnation text, OUT slot text, OUT address text, OUT epoch bigint, OUT turn_seq bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  lease record;
  known boolean;
  alive boolean;
  now_ms bigint;
BEGIN
  -- include: lock.sql
  turn_seq := 0;
  epoch := 0;
  incarnation := '';
  answer := 'fenced';
  IF NOT alive OR lease.deleted THEN
    RETURN;
  END IF;
  incarnation := lease.incarnation;
  slot := lease.slot;
  address := lease.address;
  epoch := lease.epoch;
  turn_seq := lease.turn_seq;
  IF lease.incarnation <> '' AND lease.epoch = _epoch AND lease.token = _token THEN
    answer := 'ok';
    epoch := greatest(lease.epoch, _found + 1);
    UPDATE rehydra.sessions AS s SET epoch = greatest(lease.epoch, _found + 1)
     WHERE s.tenant = _tenant AND s.session_id = _session_id;
  END IF;
END $$;
