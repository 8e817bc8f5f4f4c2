-- beat: I am alive. Waits for no change of the table. What it answers is read by one statement, so that the beats and
-- the ring_version that a host acts on belong together.
--
-- _incarnation         of the host that beats
-- _state               serving, spare or draining
-- _address             of that host, host:port
-- _known_ring_version  the table comes along if it has another one now
-- _keep_ms             a host outside of the table is forgotten after so long a silence
--
-- ring_version, listed, waits, incarnations, counters, states, addresses
-- slots, records   the table; null if it is known
CREATE OR REPLACE FUNCTION rehydra.beat(
  _incarnation text, _state text, _address text, _known_ring_version bigint, _keep_ms bigint,
  OUT ring_version bigint, OUT listed boolean, OUT waits boolean, OUT incarnations text[], OUT counters bigint[],
  OUT states text[], OUT addresses text[], OUT slots text[], OUT records bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  now_ms bigint := rehydra.time_ms();
BEGIN
  -- A first count at the clock, so that one who was forgotten never seems to go backwards.
  INSERT INTO rehydra.beats AS b (incarnation, counter, seen_ms, state, address)
  VALUES (_incarnation, now_ms, now_ms, _state, _address)
  ON CONFLICT (incarnation) DO UPDATE
     SET counter = b.counter + 1, seen_ms = excluded.seen_ms, state = excluded.state, address = excluded.address;
  -- Two that wake up after a long silence would wait for each other's row without SKIP LOCKED.
  DELETE FROM rehydra.beats AS b
   WHERE b.incarnation IN (
    SELECT o.incarnation FROM rehydra.beats AS o
     WHERE o.seen_ms + _keep_ms < now_ms
       AND NOT EXISTS (SELECT FROM rehydra.members AS m WHERE m.incarnation = o.incarnation)
       FOR UPDATE SKIP LOCKED);
  SELECT r.ring_version,
         EXISTS (SELECT FROM rehydra.members AS m WHERE m.incarnation = _incarnation),
         EXISTS (SELECT FROM rehydra.spares AS s WHERE s.incarnation = _incarnation),
         b.incarnations, b.counters, b.states, b.addresses,
         CASE WHEN r.ring_version <> _known_ring_version
              THEN ARRAY(SELECT m.slot FROM rehydra.members AS m ORDER BY m.number) END,
         CASE WHEN r.ring_version <> _known_ring_version
              THEN ARRAY(SELECT m.record FROM rehydra.members AS m ORDER BY m.number) END
    INTO ring_version, listed, waits, incarnations, counters, states, addresses, slots, records
    FROM rehydra.ring AS r,
         (SELECT array_agg(a.incarnation) AS incarnations, array_agg(a.counter) AS counters,
                 array_agg(a.state) AS states, array_agg(a.address) AS addresses
            FROM rehydra.beats AS a) AS b;
END $$;
