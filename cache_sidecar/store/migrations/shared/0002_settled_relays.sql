-- How far each region's Redis was told so long ago that no failover can undo it: what follows is told again after one.
ALTER TABLE cache_sidecar.relays ADD COLUMN settled bigint NOT NULL DEFAULT 0;
