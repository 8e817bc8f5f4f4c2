-- read: a page of committed turns, for whoever asks; locks nothing and waits for nobody. Stable, so that all of it
-- looks at one moment: turn_seq and the page belong together.
--
-- _after      only turns with a greater turn_seq
-- _limit      most turns to return, may be 0
-- _bytes_max  of records; the page ends before the one that is too much, but has one at least
--
-- turns    epoch, born, turn_seq, last_turn_id, hot, records   turn_seq of the session's last turn; hot as in layout_2.sql
-- deleted
-- missing
CREATE OR REPLACE FUNCTION rehydra.read(
  _tenant text, _session_id text, _after bigint, _limit bigint, _bytes_max bigint,
  OUT answer text, OUT turn_seq bigint, OUT last_turn_id bytea, OUT epoch bigint, OUT born bigint, OUT hot boolean,
  OUT records bytea[]
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
  lease record;
BEGIN
  SELECT s.life, s.turn_seq, s.last_turn_id, s.epoch, s.born, s.hot, s.deleted INTO lease
    FROM rehydra.sessions AS s
   WHERE s.tenant = _tenant AND s.session_id = _session_id
     AND (s.expires_ms IS NULL OR s.expires_ms > rehydra.time_ms());
  IF NOT FOUND THEN
    answer := 'missing';
  ELSIF lease.deleted THEN
    answer := 'deleted';
  ELSE
    answer := 'turns';
    turn_seq := lease.turn_seq;
    last_turn_id := lease.last_turn_id;
    epoch := lease.epoch;
    born := lease.born;
    hot := lease.hot;
    records := ARRAY(
      SELECT page.record
        FROM (SELECT t.turn_seq, t.record, sum(octet_length(t.record)) OVER (ORDER BY t.turn_seq) AS bytes
                FROM (SELECT t.turn_seq, t.record
                        FROM rehydra.turns AS t
                       WHERE t.life = lease.life AND t.turn_seq > _after
                       ORDER BY t.turn_seq
                       LIMIT _limit) AS t) AS page
       WHERE page.bytes <= _bytes_max OR page.turn_seq = _after + 1
       ORDER BY page.turn_seq);
  END IF;
END $$;
