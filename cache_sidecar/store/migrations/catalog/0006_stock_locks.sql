-- Whoever decides on the whole stock of a product locks its bucket 0 first, then reads the rest in a statement of its own.
--
-- One statement alone would lose: SELECT ... FOR UPDATE of all rows takes its snapshot, waits for a row that another
-- transaction changes, and goes on with that snapshot. Buckets that the other one inserted meanwhile are not in it, so their
-- pieces would not be counted, and would be overwritten or removed.

-- Locks the stock of a product until the end of the transaction, and returns its rows, bucket 0 first; none when it has none.
CREATE FUNCTION cache_sidecar.lock_stock(of_product text) RETURNS SETOF cache_sidecar.inventory LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM cache_sidecar.inventory WHERE product_id = of_product AND bucket = 0 FOR UPDATE;
    IF NOT FOUND THEN
        -- There is no row to lock yet. Of two transactions that both make the stock, the second one waits here, and then
        -- finds what the first one made.
        PERFORM pg_advisory_xact_lock(hashtextextended('cache_sidecar.inventory ' || of_product, 0));
        PERFORM FROM cache_sidecar.inventory WHERE product_id = of_product AND bucket = 0 FOR UPDATE;
    END IF;
    -- This statement's snapshot is taken while the lock is held, and buckets are only inserted under it.
    RETURN QUERY SELECT * FROM cache_sidecar.inventory WHERE product_id = of_product ORDER BY bucket FOR UPDATE;
END $$;

-- As before, and a bucket that any program inserts waits for whoever has locked the stock.
CREATE OR REPLACE FUNCTION cache_sidecar.await_inventory_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.bucket > 0 THEN
        PERFORM FROM cache_sidecar.inventory WHERE product_id = NEW.product_id AND bucket = 0 FOR UPDATE;
    END IF;
    PERFORM FROM cache_sidecar.inventory WHERE product_id = NEW.product_id AND bucket = NEW.bucket FOR KEY SHARE;
    RETURN NEW;
END $$;

-- Reserves pieces of products, which come in ascending order, each with the bucket to try first. Returns the rows as they
-- are then. When there is too little of a product, its rows come with granted = false, or one row of NULLs when it has
-- none, and the transaction has to be rolled back.
CREATE OR REPLACE FUNCTION cache_sidecar.reserve(
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
        IF preferred[i] = 0 THEN
            RETURN QUERY SELECT true, part FROM cache_sidecar.take(products[i], 0, quantities[i], new_reservation) AS part;
            CONTINUE WHEN FOUND;
        ELSE
            -- An UPDATE that waited for the row, and then finds too little in it, has locked it all the same. With that lock
            -- this would wait for bucket 0, and whoever has locked bucket 0 would wait for this one. So the block is undone,
            -- and the lock with it.
            BEGIN
                RETURN QUERY SELECT true, part
                    FROM cache_sidecar.take(products[i], preferred[i], quantities[i], new_reservation) AS part;
                CONTINUE WHEN FOUND;
                RAISE EXCEPTION USING ERRCODE = 'CS001', MESSAGE = 'too little in the preferred bucket';
            EXCEPTION WHEN SQLSTATE 'CS001' THEN
                NULL;
            END;
        END IF;
        -- No bucket alone decides that there is too little: all of them, locked, do.
        SELECT sum(locked.available) INTO total FROM cache_sidecar.lock_stock(products[i]) AS locked;
        IF total IS NULL OR total < quantities[i] THEN
            RETURN QUERY SELECT false, part FROM (SELECT 1) AS always
                LEFT JOIN cache_sidecar.inventory AS part ON part.product_id = products[i] ORDER BY part.bucket;
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

-- Sets what is available of a product, over as many buckets as it has; returns whether that was not so before.
CREATE OR REPLACE FUNCTION cache_sidecar.import_stock(of_product text, total bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    present bigint;
    count   bigint;
BEGIN
    SELECT sum(locked.available), count(*) INTO present, count FROM cache_sidecar.lock_stock(of_product) AS locked;
    IF present = total THEN
        RETURN false;
    END IF;
    PERFORM cache_sidecar.set_stock(of_product, total, greatest(count, 1)::integer);
    RETURN true;
END $$;
