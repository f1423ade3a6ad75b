-- A stock has one version, also when it is in several buckets: it grows with every change, in whatever order the
-- transactions that change different buckets commit, and when the number of buckets changes.
--
-- Setting a stock begins an epoch, which all of its rows then name; every change of a row after that adds a step to the row.
-- The version is 10,000 x the epoch + the steps of all rows (VERSIONS_PER_EPOCH in tiers/stock.py). An epoch is drawn from
-- version_seq while all rows are locked, every change of a row draws a number from there too, and a step is less than 10,000:
-- so a version is never above 10,000 x the last number drawn, and each epoch begins above all versions before it. That also
-- holds for a stock that was deleted and made anew: nothing has to be kept of the deleted one.
--
-- Rows of different epochs do not belong together: whoever holds such has seen one half of a change.

ALTER TABLE cache_sidecar.inventory
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN steps bigint NOT NULL DEFAULT 0,
    -- The version that the row was inserted with: whatever has a smaller number is about a row that was deleted.
    ADD COLUMN born  bigint NOT NULL DEFAULT 0;

-- What a change of a bucket adds to the version. Caches learn of changes in different buckets in any order, so one reader may
-- know of the last change in bucket 3 but not in bucket 5, and another the reverse. If all steps were the same, both would
-- see one version with two contents. These are a Sidon set (Erdos and Turan, 1941; 67 is a prime above 63): the sums of any
-- two are all different.
CREATE FUNCTION cache_sidecar.step_of_bucket(bucket integer) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT 2 * 67 * bucket + bucket * bucket % 67 + 1
$$;

CREATE FUNCTION cache_sidecar.next_stock_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := nextval('cache_sidecar.version_seq');
    NEW.steps := cache_sidecar.step_of_bucket(NEW.bucket);
    IF TG_OP = 'UPDATE' AND NEW.epoch = OLD.epoch THEN
        NEW.steps := OLD.steps + NEW.steps;
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.born := NEW.version;
    END IF;
    IF NEW.epoch = 0 THEN
        -- Inserted by a program that knows nothing of epochs.
        NEW.epoch := coalesce(
            (SELECT epoch FROM cache_sidecar.inventory WHERE product_id = NEW.product_id AND bucket = 0), NEW.version);
    END IF;
    RETURN NEW;
END $$;

DROP TRIGGER inventory_version ON cache_sidecar.inventory;
CREATE TRIGGER inventory_version BEFORE INSERT OR UPDATE ON cache_sidecar.inventory
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_stock_version();

-- When a program deletes a bucket, its steps are gone from the sum: what is left of the stock begins an epoch. set_stock() has
-- begun one already when it deletes buckets.
CREATE FUNCTION cache_sidecar.bucket_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    new_epoch bigint;
BEGIN
    IF EXISTS (SELECT FROM cache_sidecar.inventory
               WHERE product_id = OLD.product_id AND bucket = 0 AND epoch = OLD.epoch) THEN
        PERFORM cache_sidecar.lock_stock(OLD.product_id);
        new_epoch := nextval('cache_sidecar.version_seq');
        UPDATE cache_sidecar.inventory SET epoch = new_epoch WHERE product_id = OLD.product_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER inventory_bucket_deleted AFTER DELETE ON cache_sidecar.inventory
    FOR EACH ROW WHEN (OLD.bucket > 0) EXECUTE FUNCTION cache_sidecar.bucket_deleted();

-- Sets what is available of a product, spread evenly over so many buckets, and returns its rows as they are then. Buckets
-- beyond that go; nothing may be reserved in them.
CREATE OR REPLACE FUNCTION cache_sidecar.set_stock(of_product text, total bigint, count integer)
RETURNS SETOF cache_sidecar.inventory LANGUAGE plpgsql AS $$
DECLARE
    new_epoch bigint;
BEGIN
    PERFORM cache_sidecar.lock_stock(of_product);
    new_epoch := nextval('cache_sidecar.version_seq');  -- now, and not before every row is locked
    INSERT INTO cache_sidecar.inventory (product_id, bucket, buckets, available, epoch)
    SELECT of_product, number, count, total / count + CASE WHEN number < total % count THEN 1 ELSE 0 END, new_epoch
    FROM generate_series(0, count - 1) AS number
    ON CONFLICT (product_id, bucket) DO UPDATE
    SET buckets = excluded.buckets, available = excluded.available, epoch = excluded.epoch, update_time = now();
    DELETE FROM cache_sidecar.inventory AS present
    WHERE present.product_id = of_product AND present.bucket >= count AND present.reserved = 0;
    IF EXISTS (SELECT FROM cache_sidecar.inventory AS present
               WHERE present.product_id = of_product AND present.bucket >= count) THEN
        RAISE EXCEPTION 'pieces of % are reserved in buckets that would go', of_product;
    END IF;
    RETURN QUERY SELECT * FROM cache_sidecar.inventory AS present
        WHERE present.product_id = of_product ORDER BY present.bucket;
END $$;

WITH drawn AS (SELECT nextval('cache_sidecar.version_seq') AS epoch)
UPDATE cache_sidecar.inventory SET epoch = drawn.epoch FROM drawn;
