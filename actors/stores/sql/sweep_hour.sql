-- sweep_hour: the first whole hour at which what expires at expires_ms has surely expired; null if it never does.
CREATE OR REPLACE FUNCTION rehydra.sweep_hour(expires_ms bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT (expires_ms + 3599999) / 3600000
$$;
