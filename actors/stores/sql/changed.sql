-- changed: called after every change of the table, and only then, by who has locked it. From the clock when the table
-- is new, so that after a loss of all data no host takes it for an older one.
CREATE OR REPLACE FUNCTION rehydra.changed() RETURNS void LANGUAGE sql VOLATILE AS $$
  UPDATE rehydra.ring AS r
     SET ring_version = CASE r.ring_version WHEN 0 THEN rehydra.time_ms() ELSE r.ring_version + 1 END
$$;
