-- time_ms: this server's clock in ms. Not now(), which stands still from the beginning of a transaction.
CREATE OR REPLACE FUNCTION rehydra.time_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;
