-- A hold that cannot be ended, as when a CHECK refuses because `reserved` was set by hand, is tried again later and later, and
-- delays no other. The time of the next attempt is in the row: so it holds for every relay, and whoever has mended the cause may
-- set it back to NULL.

ALTER TABLE cache_sidecar.reservations
    ADD COLUMN expire_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN retry_time timestamptz;

DROP INDEX cache_sidecar.reservations_due;
CREATE INDEX reservations_due ON cache_sidecar.reservations (greatest(expire_time, retry_time)) WHERE state = 'held';

-- Ends one reservation whose time is over, or notes that it cannot be ended. Returns its id, and why it was not ended: an
-- SQLSTATE, and the name of a constraint if there is one; no row when none is due that nobody else works on.
--
-- `patience` is how long it waits for a row of stock that another transaction has locked, such as '1s'.
DROP FUNCTION cache_sidecar.expire_hold(timestamptz);
CREATE FUNCTION cache_sidecar.expire_hold(at timestamptz, patience text)
RETURNS TABLE (reservation_id uuid, refused text, by_constraint text) LANGUAGE plpgsql AS $$
DECLARE
    longest integer;
BEGIN
    SELECT present.reservation_id INTO reservation_id FROM cache_sidecar.reservations AS present
    WHERE present.state = 'held' AND greatest(present.expire_time, present.retry_time) <= at
    ORDER BY greatest(present.expire_time, present.retry_time) LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF reservation_id IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM set_config('lock_timeout', patience, true);
        PERFORM cache_sidecar.end_reservation(reservation_id, 'expired', at);
    EXCEPTION WHEN OTHERS THEN
        -- Privileges, missing tables, a full disk, a server that stops: not about this row, and the next would meet it as well.
        IF left(SQLSTATE, 2) IN ('08', '0A', '25', '26', '42', '53', '57', '58', 'F0') THEN
            RAISE;
        END IF;
        refused := SQLSTATE;
        GET STACKED DIAGNOSTICS by_constraint = CONSTRAINT_NAME;
        -- What other transactions did passes soon, anything else when somebody has mended it. The lock on the reservation was
        -- taken before the block, so it is still held.
        longest := CASE WHEN SQLSTATE = '55P03' OR SQLSTATE LIKE '40%' THEN 10 ELSE 600 END;
        UPDATE cache_sidecar.reservations AS present
        SET expire_failures = present.expire_failures + 1,
            retry_time = at + interval '1 second' * least(longest, 2 ^ least(present.expire_failures, 10))
        WHERE present.reservation_id = expire_hold.reservation_id;
    END;
    RETURN NEXT;
END $$;
