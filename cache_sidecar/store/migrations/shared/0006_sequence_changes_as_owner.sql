-- Giving changes their positions updates the outbox, which the roles of sidecars and relays may not: they could change what
-- others are told. So the function does it with the rights of its owner.
ALTER FUNCTION cache_sidecar.sequence_changes() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
