-- sweep: take away what nobody can find any more, a piece of it: sessions whose expiry has passed, and turns of lives
-- that have ended. What another sweep, or a claim, has locked is left to it.
--
-- _sessions_max  most sessions, and most lives, to take away
-- _turns_max     most turns to take away
--
-- more  whether there may be more to sweep now
CREATE OR REPLACE FUNCTION rehydra.sweep(_sessions_max bigint, _turns_max bigint, OUT more boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  now_ms bigint := rehydra.time_ms();
  ended record;
  swept bigint;
  lives bigint := 0;
  turns_left bigint := _turns_max;
BEGIN
  WITH expired AS (
    SELECT s.tenant, s.session_id
      FROM rehydra.sessions AS s
     WHERE s.sweep_hour <= now_ms / 3600000 AND s.expires_ms <= now_ms
     ORDER BY s.sweep_hour
     LIMIT _sessions_max
       FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM rehydra.sessions AS s USING expired AS e
     WHERE s.tenant = e.tenant AND s.session_id = e.session_id
    RETURNING s.life
  )
  INSERT INTO rehydra.remains (life) SELECT gone.life FROM gone;
  GET DIAGNOSTICS swept = ROW_COUNT;
  more := swept = _sessions_max;
  FOR ended IN SELECT r.life FROM rehydra.remains AS r ORDER BY r.life LIMIT _sessions_max FOR UPDATE SKIP LOCKED LOOP
    DELETE FROM rehydra.turns AS t
     WHERE t.life = ended.life
       AND t.turn_seq IN (SELECT o.turn_seq FROM rehydra.turns AS o
                           WHERE o.life = ended.life ORDER BY o.turn_seq LIMIT turns_left);
    GET DIAGNOSTICS swept = ROW_COUNT;
    turns_left := turns_left - swept;
    EXIT WHEN turns_left = 0;
    DELETE FROM rehydra.remains AS r WHERE r.life = ended.life;
    lives := lives + 1;
  END LOOP;
  more := more OR lives = _sessions_max OR turns_left = 0;
END $$;
