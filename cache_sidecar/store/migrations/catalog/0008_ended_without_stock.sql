-- Ends a reservation that is still held, as `outcome`, and returns the rows of its products as they are then; none when it
-- ended before. Whoever comes first decides.
--
-- A row that another program deleted and made anew holds none of the pieces that were taken from the deleted one. They are gone
-- with it: giving them back would free what other reservations hold, or, where nothing is reserved, be refused, so that the
-- reservation could neither be sold nor released, and would never expire.
CREATE OR REPLACE FUNCTION cache_sidecar.end_reservation(which uuid, outcome text, at timestamptz)
RETURNS SETOF cache_sidecar.inventory LANGUAGE plpgsql AS $$
DECLARE
    item cache_sidecar.reservation_items;
BEGIN
    UPDATE cache_sidecar.reservations AS present SET state = outcome, end_time = at
    WHERE present.reservation_id = which AND present.state = 'held';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR item IN SELECT * FROM cache_sidecar.reservation_items AS part
                WHERE part.reservation_id = which ORDER BY part.product_id, part.bucket LOOP
        RETURN QUERY UPDATE cache_sidecar.inventory AS present
            SET reserved = present.reserved - item.quantity, update_time = now(),
                available = present.available + CASE WHEN outcome = 'committed' THEN 0 ELSE item.quantity END
            WHERE present.product_id = item.product_id AND present.bucket = item.bucket
              AND present.born < item.grant_version
            RETURNING present.*;
    END LOOP;
END $$;
