-- Stock, and the reservations that hold parts of it. Only what is granted here is granted.
--
-- Rows are locked in one order, reservation, then product, then bucket, so that nobody waits in a circle.

CREATE TABLE cache_sidecar.inventory (
    product_id    text COLLATE "C" NOT NULL,
    -- The stock of a product is in one row, bucket 0, or, when everybody wants that row at once, in several.
    bucket        smallint NOT NULL DEFAULT 0 CHECK (bucket BETWEEN 0 AND 63),
    -- How many rows there are; what bucket 0 says counts.
    buckets       smallint NOT NULL DEFAULT 1 CHECK (buckets BETWEEN 1 AND 64),
    available     bigint NOT NULL CHECK (available >= 0),
    reserved      bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    -- Drawn from version_seq by each reservation that takes something: who knows the requests up to here, knows them all.
    grant_version bigint NOT NULL DEFAULT 0,
    update_time   timestamptz NOT NULL DEFAULT now(),
    version       bigint NOT NULL,
    -- What caches call the row. No product_id has a control character in it.
    id            text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN bucket = 0 THEN product_id ELSE product_id || E'\x1f' || bucket::text END) STORED,
    PRIMARY KEY (product_id, bucket)
) WITH (fillfactor = 70);  -- room for the next version of a row beside it

CREATE TRIGGER inventory_version BEFORE INSERT OR UPDATE ON cache_sidecar.inventory
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER inventory_change AFTER INSERT OR UPDATE OR DELETE ON cache_sidecar.inventory
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('inventory', 'id');

CREATE TABLE cache_sidecar.inventory_adjustments (
    adjustment  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id  text COLLATE "C" NOT NULL,
    delta       bigint NOT NULL,
    reason      text NOT NULL,
    request_id  uuid NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inventory_adjustments_of_product ON cache_sidecar.inventory_adjustments (product_id, adjustment);

CREATE TABLE cache_sidecar.reservations (
    reservation_id uuid PRIMARY KEY,
    request_id     uuid NOT NULL,
    user_id        text COLLATE "C" NOT NULL,
    state          text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'committed', 'released', 'expired')),
    create_time    timestamptz NOT NULL,
    expire_time    timestamptz NOT NULL,
    end_time       timestamptz CHECK ((end_time IS NULL) = (state = 'held'))
);
CREATE INDEX reservations_of_user ON cache_sidecar.reservations (user_id, reservation_id);
CREATE INDEX reservations_due ON cache_sidecar.reservations (expire_time) WHERE state = 'held';

CREATE TABLE cache_sidecar.reservation_items (
    reservation_id uuid NOT NULL REFERENCES cache_sidecar.reservations ON DELETE CASCADE,
    product_id     text COLLATE "C" NOT NULL,
    bucket         smallint NOT NULL,
    quantity       integer NOT NULL CHECK (quantity > 0),
    grant_version  bigint NOT NULL,
    PRIMARY KEY (reservation_id, product_id, bucket)
);
CREATE INDEX reservation_items_of_product ON cache_sidecar.reservation_items (product_id, bucket, grant_version);

-- Takes pieces out of one bucket, if it has that many, and notes what they are for; returns the row as it is then, or none.
CREATE FUNCTION cache_sidecar.take(of_product text, of_bucket integer, pieces integer, for_reservation uuid)
RETURNS SETOF cache_sidecar.inventory LANGUAGE plpgsql AS $$
DECLARE
    part cache_sidecar.inventory;
BEGIN
    UPDATE cache_sidecar.inventory AS present
    SET available = present.available - pieces, reserved = present.reserved + pieces, update_time = now(),
        grant_version = nextval('cache_sidecar.version_seq')
    WHERE present.product_id = of_product AND present.bucket = of_bucket AND present.available >= pieces
    RETURNING * INTO part;
    IF FOUND THEN
        INSERT INTO cache_sidecar.reservation_items (reservation_id, product_id, bucket, quantity, grant_version)
        VALUES (for_reservation, of_product, of_bucket, pieces, part.grant_version);
        RETURN NEXT part;
    END IF;
END $$;

-- Reserves pieces of products, which come in ascending order, each with the bucket to try first. Returns the rows as they
-- are then. When there is too little of a product, its rows come with granted = false, or one row of NULLs when it has
-- none, and the transaction has to be rolled back.
CREATE FUNCTION cache_sidecar.reserve(
    new_reservation uuid, of_request uuid, for_user text, made timestamptz, until timestamptz,
    products text[], quantities integer[], preferred integer[]
) RETURNS TABLE (granted boolean, stock cache_sidecar.inventory) LANGUAGE plpgsql AS $$
DECLARE
    wanted integer;
    pieces integer;
    total  bigint;
BEGIN
    INSERT INTO cache_sidecar.reservations (reservation_id, request_id, user_id, create_time, expire_time)
    VALUES (new_reservation, of_request, for_user, made, until);
    FOR i IN 1 .. cardinality(products) LOOP
        RETURN QUERY SELECT true, part
            FROM cache_sidecar.take(products[i], preferred[i], quantities[i], new_reservation) AS part;
        CONTINUE WHEN FOUND;
        -- No bucket alone decides that there is too little: all of them, locked, do.
        SELECT sum(locked.available) INTO total FROM (
            SELECT present.available FROM cache_sidecar.inventory AS present
            WHERE present.product_id = products[i] ORDER BY present.bucket FOR UPDATE) AS locked;
        IF total IS NULL OR total < quantities[i] THEN
            RETURN QUERY SELECT false, part FROM (SELECT 1) AS always
                LEFT JOIN cache_sidecar.inventory AS part ON part.product_id = products[i];
            RETURN;
        END IF;
        wanted := quantities[i];
        FOR stock IN SELECT * FROM cache_sidecar.inventory AS present
                     WHERE present.product_id = products[i] AND present.available > 0 ORDER BY present.bucket LOOP
            pieces := least(stock.available, wanted);
            RETURN QUERY SELECT true, part FROM cache_sidecar.take(products[i], stock.bucket, pieces, new_reservation) AS part;
            wanted := wanted - pieces;
            EXIT WHEN wanted = 0;
        END LOOP;
    END LOOP;
END $$;

-- Ends a reservation that is still held, as `outcome`, and returns the rows of its products as they are then; none when it
-- ended before. Whoever comes first decides.
CREATE FUNCTION cache_sidecar.end_reservation(which uuid, outcome text, at timestamptz)
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
            RETURNING present.*;
    END LOOP;
END $$;

-- Ends one reservation whose time is over, and returns its id; NULL when none is due that nobody else works on.
CREATE FUNCTION cache_sidecar.expire_hold(at timestamptz) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    due uuid;
BEGIN
    SELECT present.reservation_id INTO due FROM cache_sidecar.reservations AS present
    WHERE present.state = 'held' AND present.expire_time <= at
    ORDER BY present.expire_time LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF due IS NOT NULL THEN
        PERFORM cache_sidecar.end_reservation(due, 'expired', at);
    END IF;
    RETURN due;
END $$;

-- Sets what is available of a product, spread evenly over so many buckets, and returns its rows as they are then. Buckets
-- beyond that go; nothing may be reserved in them.
CREATE FUNCTION cache_sidecar.set_stock(of_product text, total bigint, count integer)
RETURNS SETOF cache_sidecar.inventory LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cache_sidecar.inventory (product_id, bucket, buckets, available)
    SELECT of_product, number, count, total / count + CASE WHEN number < total % count THEN 1 ELSE 0 END
    FROM generate_series(0, count - 1) AS number
    ON CONFLICT (product_id, bucket) DO UPDATE
    SET buckets = excluded.buckets, available = excluded.available, update_time = now();
    DELETE FROM cache_sidecar.inventory AS present
    WHERE present.product_id = of_product AND present.bucket >= count AND present.reserved = 0;
    IF EXISTS (SELECT FROM cache_sidecar.inventory AS present
               WHERE present.product_id = of_product AND present.bucket >= count) THEN
        RAISE EXCEPTION 'pieces of % are reserved in buckets that would go', of_product;
    END IF;
    RETURN QUERY SELECT * FROM cache_sidecar.inventory AS present
        WHERE present.product_id = of_product ORDER BY present.bucket;
END $$;

-- Sets what is available of a product, over as many buckets as it has; returns whether that was not so before.
CREATE FUNCTION cache_sidecar.import_stock(of_product text, total bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    present bigint;
    count   bigint;
BEGIN
    SELECT sum(locked.available), count(*) INTO present, count FROM (
        SELECT it.available FROM cache_sidecar.inventory AS it
        WHERE it.product_id = of_product ORDER BY it.bucket FOR UPDATE) AS locked;
    IF present = total THEN
        RETURN false;
    END IF;
    PERFORM cache_sidecar.set_stock(of_product, total, greatest(count, 1)::integer);
    RETURN true;
END $$;
