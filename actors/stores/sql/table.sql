-- table: the membership table as it is now. Reads only.
--
-- ring_version, slots, records
CREATE OR REPLACE FUNCTION rehydra.table(OUT ring_version bigint, OUT slots text[], OUT records bytea[])
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  -- include: table_answer.sql
END $$;
