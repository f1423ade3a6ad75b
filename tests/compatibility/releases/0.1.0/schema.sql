SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA cache_sidecar;
CREATE FUNCTION cache_sidecar.await_cart_deletion() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM cache_sidecar.carts WHERE user_id = NEW.user_id FOR KEY SHARE;
    RETURN NEW;
END $$;
CREATE FUNCTION cache_sidecar.await_ending_of_sessions() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM cache_sidecar.lock_user_sessions(NEW.user_id, exclusive => false);
    RETURN NEW;
END $$;
CREATE FUNCTION cache_sidecar.await_inventory_deletion() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NEW.bucket > 0 THEN
        PERFORM FROM cache_sidecar.inventory WHERE product_id = NEW.product_id AND bucket = 0 FOR UPDATE;
    END IF;
    PERFORM FROM cache_sidecar.inventory WHERE product_id = NEW.product_id AND bucket = NEW.bucket FOR KEY SHARE;
    RETURN NEW;
END $$;
CREATE FUNCTION cache_sidecar.await_product_deletion() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM cache_sidecar.products WHERE product_id = NEW.product_id FOR KEY SHARE;
    RETURN NEW;
END $$;
CREATE FUNCTION cache_sidecar.bucket_deleted() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.draw_version(of_dataset text, of_id text) RETURNS bigint
    LANGUAGE sql
    AS $$
    INSERT INTO cache_sidecar.versions (dataset, id, version) VALUES (of_dataset, of_id, nextval('cache_sidecar.version_seq'))
    ON CONFLICT (dataset, id) DO UPDATE SET version = nextval('cache_sidecar.version_seq')
    RETURNING version
$$;
CREATE FUNCTION cache_sidecar.emit_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    is_ours boolean := TG_TABLE_SCHEMA = 'cache_sidecar';
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    old_id  text := old_row ->> TG_ARGV[1];
    new_id  text := new_row ->> TG_ARGV[1];
BEGIN
    IF old_id IS NOT NULL AND old_id IS DISTINCT FROM new_id THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (CASE WHEN is_ours THEN nextval('cache_sidecar.version_seq')
                     ELSE cache_sidecar.draw_version(TG_ARGV[0], old_id) END,
                TG_ARGV[0], old_id, 'deleted');
    END IF;
    IF new_id IS NOT NULL THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (CASE WHEN is_ours THEN (new_row ->> 'version')::bigint
                     ELSE cache_sidecar.draw_version(TG_ARGV[0], new_id) END,
                TG_ARGV[0], new_id, CASE WHEN old_id IS DISTINCT FROM new_id THEN 'created' ELSE 'updated' END);
    END IF;
    PERFORM pg_notify('cache_sidecar_outbox', '');
    RETURN NULL;
END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE cache_sidecar.inventory (
    product_id text NOT NULL COLLATE pg_catalog."C",
    bucket smallint DEFAULT 0 NOT NULL,
    buckets smallint DEFAULT 1 NOT NULL,
    available bigint NOT NULL,
    reserved bigint DEFAULT 0 NOT NULL,
    grant_version bigint DEFAULT 0 NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL,
    version bigint NOT NULL,
    id text GENERATED ALWAYS AS (
CASE
    WHEN (bucket = 0) THEN product_id
    ELSE ((product_id || ''::text) || (bucket)::text)
END) STORED NOT NULL COLLATE pg_catalog."C",
    epoch bigint DEFAULT 0 NOT NULL,
    steps bigint DEFAULT 0 NOT NULL,
    born bigint DEFAULT 0 NOT NULL,
    CONSTRAINT inventory_available_check CHECK ((available >= 0)),
    CONSTRAINT inventory_bucket_check CHECK (((bucket >= 0) AND (bucket <= 63))),
    CONSTRAINT inventory_buckets_check CHECK (((buckets >= 1) AND (buckets <= 64))),
    CONSTRAINT inventory_reserved_check CHECK ((reserved >= 0))
)
WITH (fillfactor='70');
CREATE FUNCTION cache_sidecar.end_reservation(which uuid, outcome text, at timestamp with time zone) RETURNS SETOF cache_sidecar.inventory
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.expire_hold(at timestamp with time zone, patience text) RETURNS TABLE(reservation_id uuid, refused text, by_constraint text)
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.import_stock(of_product text, total bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.lock_stock(of_product text) RETURNS SETOF cache_sidecar.inventory
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.lock_user_sessions(of_user text, exclusive boolean) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF of_user = '' THEN
        RETURN;  -- nobody can end all anonymous sessions
    ELSIF exclusive THEN
        PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.sessions'), hashtext(of_user) & 1023);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtext('cache_sidecar.sessions'), hashtext(of_user) & 1023);
    END IF;
END $$;
CREATE FUNCTION cache_sidecar.next_stock_version() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.next_version() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.version := nextval('cache_sidecar.version_seq');
    RETURN NEW;
END $$;
CREATE FUNCTION cache_sidecar.reserve(new_reservation uuid, of_request uuid, for_user text, made timestamp with time zone, until timestamp with time zone, products text[], quantities integer[], preferred integer[]) RETURNS TABLE(granted boolean, stock cache_sidecar.inventory)
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.sequence_changes() RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    done bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.sequence_changes'));
    WITH ordered AS (
        SELECT version, nextval('cache_sidecar.position_seq') AS next
        FROM (SELECT version FROM cache_sidecar.outbox WHERE position IS NULL ORDER BY version LIMIT 10000) AS new
    )
    UPDATE cache_sidecar.outbox SET position = ordered.next FROM ordered WHERE outbox.version = ordered.version;
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END $$;
CREATE FUNCTION cache_sidecar.set_stock(of_product text, total bigint, count integer) RETURNS SETOF cache_sidecar.inventory
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.step_of_bucket(bucket integer) RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT 2 * 67 * bucket + bucket * bucket % 67 + 1
$$;
CREATE FUNCTION cache_sidecar.take(of_product text, of_bucket integer, pieces integer, for_reservation uuid) RETURNS SETOF cache_sidecar.inventory
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION cache_sidecar.version_of(of_dataset text, of_id text) RETURNS bigint
    LANGUAGE sql STABLE
    AS $$
    SELECT coalesce((SELECT version FROM cache_sidecar.versions WHERE dataset = of_dataset AND id = of_id), 1)
$$;
CREATE TABLE cache_sidecar.carts (
    user_id text NOT NULL COLLATE pg_catalog."C",
    items jsonb DEFAULT '[]'::jsonb NOT NULL,
    create_time timestamp with time zone DEFAULT now() NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT carts_items_check CHECK ((jsonb_typeof(items) = 'array'::text))
);
CREATE TABLE cache_sidecar.inventory_adjustments (
    adjustment bigint NOT NULL,
    product_id text NOT NULL COLLATE pg_catalog."C",
    delta bigint NOT NULL,
    reason text NOT NULL,
    request_id uuid NOT NULL,
    create_time timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE cache_sidecar.inventory_adjustments ALTER COLUMN adjustment ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME cache_sidecar.inventory_adjustments_adjustment_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE cache_sidecar.migrations (
    role text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    apply_time timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE cache_sidecar.outbox (
    version bigint NOT NULL,
    dataset text NOT NULL,
    id text NOT NULL,
    kind text NOT NULL,
    change_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    "position" bigint,
    CONSTRAINT outbox_kind_check CHECK ((kind = ANY (ARRAY['created'::text, 'updated'::text, 'deleted'::text])))
);
CREATE SEQUENCE cache_sidecar.position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE cache_sidecar.products (
    product_id text NOT NULL COLLATE pg_catalog."C",
    title text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    price_units bigint NOT NULL,
    price_nanos integer DEFAULT 0 NOT NULL,
    currency_code text NOT NULL,
    categories text[] DEFAULT '{}'::text[] NOT NULL,
    brand text DEFAULT ''::text NOT NULL,
    image_uris text[] DEFAULT '{}'::text[] NOT NULL,
    attributes jsonb DEFAULT '{}'::jsonb NOT NULL,
    active boolean DEFAULT true NOT NULL,
    create_time timestamp with time zone DEFAULT now() NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT products_currency_code_check CHECK ((currency_code ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT products_price_nanos_check CHECK (((price_nanos >= 0) AND (price_nanos <= 999999999))),
    CONSTRAINT products_price_units_check CHECK ((price_units >= 0))
);
COMMENT ON TABLE cache_sidecar.products IS 'demo catalogue: 1';
CREATE TABLE cache_sidecar.relays (
    region text NOT NULL,
    "position" bigint NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL,
    settled bigint DEFAULT 0 NOT NULL
);
CREATE TABLE cache_sidecar.requests (
    request_id uuid NOT NULL,
    method text NOT NULL,
    fingerprint bytea NOT NULL,
    reply bytea NOT NULL,
    ids text[] NOT NULL,
    versions bigint[] NOT NULL,
    create_time timestamp with time zone DEFAULT now() NOT NULL,
    scope text NOT NULL COLLATE pg_catalog."C"
);
CREATE TABLE cache_sidecar.reservation_items (
    reservation_id uuid NOT NULL,
    product_id text NOT NULL COLLATE pg_catalog."C",
    bucket smallint NOT NULL,
    quantity integer NOT NULL,
    grant_version bigint NOT NULL,
    CONSTRAINT reservation_items_quantity_check CHECK ((quantity > 0))
);
CREATE TABLE cache_sidecar.reservations (
    reservation_id uuid NOT NULL,
    request_id uuid NOT NULL,
    user_id text NOT NULL COLLATE pg_catalog."C",
    state text DEFAULT 'held'::text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone,
    expire_failures integer DEFAULT 0 NOT NULL,
    retry_time timestamp with time zone,
    CONSTRAINT reservations_check CHECK (((end_time IS NULL) = (state = 'held'::text))),
    CONSTRAINT reservations_state_check CHECK ((state = ANY (ARRAY['held'::text, 'committed'::text, 'released'::text, 'expired'::text])))
);
CREATE TABLE cache_sidecar.sessions (
    session_hash text NOT NULL COLLATE pg_catalog."C",
    user_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    attributes jsonb DEFAULT '{}'::jsonb NOT NULL,
    ip_address text DEFAULT ''::text NOT NULL,
    user_agent text DEFAULT ''::text NOT NULL,
    create_time timestamp with time zone DEFAULT now() NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL,
    use_time timestamp with time zone CONSTRAINT sessions_expire_time_not_null NOT NULL,
    end_time timestamp with time zone NOT NULL,
    delete_time timestamp with time zone,
    version bigint NOT NULL,
    CONSTRAINT sessions_session_hash_check CHECK ((session_hash ~ '^[0-9a-f]{64}$'::text))
);
CREATE SEQUENCE cache_sidecar.version_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE cache_sidecar.versions (
    dataset text NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL
);
INSERT INTO cache_sidecar.carts VALUES ('ada', '[{"options": {}, "quantity": 2, "product_id": "mug", "price_nanos": 0, "price_units": 1, "currency_code": "EUR"}]', '2026-11-30 21:41:30.13833+00', '2026-11-30 21:41:30.13833+00', 8);
INSERT INTO cache_sidecar.inventory VALUES ('mug', 0, 1, 7, 3, 11, '2026-11-30 21:41:30.163459+00', 12, DEFAULT, 9, 2, 10);
INSERT INTO cache_sidecar.migrations VALUES ('shared', '0001_versions_and_outbox', 'e35079357c9a008c', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('shared', '0002_settled_relays', '901a747ece0f46c6', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('shared', '0003_own_tables', '2d82478465dda650', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('shared', '0004_request_scopes', '77d46b1f2cacaac7', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0002_products', 'c7e739571cde7281', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0003_inventory', '06a240700a52d109', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0004_reinserted_products', '00485a347eeda4f7', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0005_reinserted_inventory', '475c870dd346ef96', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0006_stock_locks', '1dd081dc9f9bb564', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0007_stock_versions', '260041d8c85e1745', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0008_ended_without_stock', 'f905bfd914faf499', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('catalog', '0010_holds_that_cannot_be_ended', '53e99d19e7a1379e', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('user', '0001_sessions', '67fb7306615f5bc0', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('user', '0002_carts', 'cc2c6dd49e7997f1', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('user', '0003_reinserted_carts', '82aa3565ace8eb82', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('user', '0004_session_uses', 'cf14d641b8f19dda', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.migrations VALUES ('user', '0005_ending_all_sessions', '3b92167accab9763', '2026-11-30 21:41:22.568661+00');
INSERT INTO cache_sidecar.outbox VALUES (4, 'product', 'mug', 'created', '2026-11-30 21:41:30.057771+00', 1);
INSERT INTO cache_sidecar.outbox VALUES (5, 'product', 'gone', 'created', '2026-11-30 21:41:30.102159+00', 2);
INSERT INTO cache_sidecar.outbox VALUES (6, 'product', 'gone', 'deleted', '2026-11-30 21:41:30.111599+00', 3);
INSERT INTO cache_sidecar.outbox VALUES (7, 'session', '318de1d0afa3dc15e4cd3b50999dc790c52b045256ecff52f4925f106d1c1205', 'created', '2026-11-30 21:41:30.123448+00', 4);
INSERT INTO cache_sidecar.outbox VALUES (8, 'cart', 'ada', 'created', '2026-11-30 21:41:30.140592+00', 5);
INSERT INTO cache_sidecar.outbox VALUES (10, 'inventory', 'mug', 'created', '2026-11-30 21:41:30.15179+00', 6);
INSERT INTO cache_sidecar.outbox VALUES (12, 'inventory', 'mug', 'updated', '2026-11-30 21:41:30.165022+00', 7);
INSERT INTO cache_sidecar.products VALUES ('SKU-000001', 'Striped Corten Steel Hanging Planter, Burgundy, 25 cm', 'The Striped Corten Steel Hanging Planter stands frost down to -15 degrees, and ages to a fine patina. It comes in 12 colours and belongs to the Gullholm collection.', 84, 990000000, 'EUR', '{"Garden > Planters"}', 'Gullholm', '{https://images.example.com/products/SKU-000001/1.jpg,https://images.example.com/products/SKU-000001/2.jpg}', '{"care": "Keep away from frost", "size": "25 cm", "colour": "Burgundy", "weight": "3152 g", "material": "Corten Steel", "country_of_origin": "Italy"}', true, '2026-11-30 21:41:23.268577+00', '2026-11-30 21:41:23.268577+00', 3);
INSERT INTO cache_sidecar.products VALUES ('mug', 'A mug', '', 12, 500000000, 'EUR', '{}', '', '{}', '{}', true, '2026-11-30 21:41:30.048693+00', '2026-11-30 21:41:30.048693+00', 4);
INSERT INTO cache_sidecar.relays VALUES ('local', 7, '2026-11-30 21:41:30.193525+00', 0);
INSERT INTO cache_sidecar.requests VALUES ('a74b3006-dbb0-4b5e-82e0-3167f43828cd', 'AddCartItemRequest', '\x71444a2e56adb1c32916502ecf8d7d1fb9b0c134a84cf49c90e7ff874f2f7d21', '\x0a4c0a0361646112100a036d756710021a070a0345555210011a070a034555521002220b088adbb7d8061090fffa412a0b088adbb7d8061090fffa41521030303030303030303030303030303038', '{ada}', '{8}', '2026-11-30 21:41:30.139294+00', 'user ada');
INSERT INTO cache_sidecar.requests VALUES ('239536bd-9499-4159-8bdc-1bd2c6715e86', 'ReserveInventoryRequest', '\x654ed2b1fb32f5280e9f443fd2be791ccbd2ba129b94ca3a674dd43a7c58cc9b', '\x0a550a2430316132326536372d653361652d373333302d396236642d3461353830313965656331661208736f6d65626f64791a070a036d7567100320012a0b088adbb7d80610c884e34b320b088afebcd80610c884e34b', '{mug}', '{12}', '2026-11-30 21:41:30.163459+00', 'user somebody');
INSERT INTO cache_sidecar.reservation_items VALUES ('01a22e67-e3ae-7330-9b6d-4a58019eec1f', 'mug', 0, 3, 11);
INSERT INTO cache_sidecar.reservations VALUES ('01a22e67-e3ae-7330-9b6d-4a58019eec1f', '239536bd-9499-4159-8bdc-1bd2c6715e86', 'somebody', 'held', '2026-11-30 21:41:30.158909+00', '2026-12-01 21:41:30.158909+00', NULL, 0, NULL);
INSERT INTO cache_sidecar.sessions VALUES ('318de1d0afa3dc15e4cd3b50999dc790c52b045256ecff52f4925f106d1c1205', 'ada', '{"basket": "full"}', '', '', '2026-11-30 21:41:30.120373+00', '2026-11-30 21:41:30.120373+00', '2026-11-30 21:41:30.120373+00', '2026-12-30 21:41:30.120373+00', NULL, 7);
SELECT pg_catalog.setval('cache_sidecar.inventory_adjustments_adjustment_seq', 1, false);
SELECT pg_catalog.setval('cache_sidecar.position_seq', 7, true);
SELECT pg_catalog.setval('cache_sidecar.version_seq', 12, true);
ALTER TABLE ONLY cache_sidecar.carts
    ADD CONSTRAINT carts_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY cache_sidecar.inventory_adjustments
    ADD CONSTRAINT inventory_adjustments_pkey PRIMARY KEY (adjustment);
ALTER TABLE ONLY cache_sidecar.inventory
    ADD CONSTRAINT inventory_pkey PRIMARY KEY (product_id, bucket);
ALTER TABLE ONLY cache_sidecar.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (role, name);
ALTER TABLE ONLY cache_sidecar.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (version);
ALTER TABLE ONLY cache_sidecar.outbox
    ADD CONSTRAINT outbox_position_key UNIQUE ("position");
ALTER TABLE ONLY cache_sidecar.products
    ADD CONSTRAINT products_pkey PRIMARY KEY (product_id);
ALTER TABLE ONLY cache_sidecar.relays
    ADD CONSTRAINT relays_pkey PRIMARY KEY (region);
ALTER TABLE ONLY cache_sidecar.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (request_id, scope);
ALTER TABLE ONLY cache_sidecar.reservation_items
    ADD CONSTRAINT reservation_items_pkey PRIMARY KEY (reservation_id, product_id, bucket);
ALTER TABLE ONLY cache_sidecar.reservations
    ADD CONSTRAINT reservations_pkey PRIMARY KEY (reservation_id);
ALTER TABLE ONLY cache_sidecar.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (session_hash);
ALTER TABLE ONLY cache_sidecar.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (dataset, id);
CREATE INDEX carts_idle ON cache_sidecar.carts USING btree (update_time, user_id) WHERE (items <> '[]'::jsonb);
CREATE INDEX inventory_adjustments_of_product ON cache_sidecar.inventory_adjustments USING btree (product_id, adjustment);
CREATE INDEX outbox_unsequenced ON cache_sidecar.outbox USING btree (version) WHERE ("position" IS NULL);
CREATE INDEX products_categories ON cache_sidecar.products USING gin (categories);
CREATE INDEX requests_age ON cache_sidecar.requests USING btree (create_time);
CREATE INDEX reservation_items_of_product ON cache_sidecar.reservation_items USING btree (product_id, bucket, grant_version);
CREATE INDEX reservations_due ON cache_sidecar.reservations USING btree (GREATEST(expire_time, retry_time)) WHERE (state = 'held'::text);
CREATE INDEX reservations_of_user ON cache_sidecar.reservations USING btree (user_id, reservation_id);
CREATE INDEX sessions_deleted ON cache_sidecar.sessions USING btree (delete_time) WHERE (delete_time IS NOT NULL);
CREATE INDEX sessions_used ON cache_sidecar.sessions USING btree (use_time);
CREATE INDEX sessions_user ON cache_sidecar.sessions USING btree (user_id, create_time DESC, session_hash) WHERE (user_id <> ''::text);
CREATE TRIGGER carts_await BEFORE INSERT ON cache_sidecar.carts FOR EACH ROW EXECUTE FUNCTION cache_sidecar.await_cart_deletion();
CREATE TRIGGER carts_change AFTER INSERT OR DELETE OR UPDATE ON cache_sidecar.carts FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('cart', 'user_id');
CREATE TRIGGER carts_version BEFORE INSERT OR UPDATE ON cache_sidecar.carts FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER inventory_await BEFORE INSERT OR UPDATE OF product_id, bucket ON cache_sidecar.inventory FOR EACH ROW EXECUTE FUNCTION cache_sidecar.await_inventory_deletion();
CREATE TRIGGER inventory_bucket_deleted AFTER DELETE ON cache_sidecar.inventory FOR EACH ROW WHEN ((old.bucket > 0)) EXECUTE FUNCTION cache_sidecar.bucket_deleted();
CREATE TRIGGER inventory_change AFTER INSERT OR DELETE OR UPDATE ON cache_sidecar.inventory FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('inventory', 'id');
CREATE TRIGGER inventory_version BEFORE INSERT OR UPDATE ON cache_sidecar.inventory FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_stock_version();
CREATE TRIGGER products_await BEFORE INSERT OR UPDATE OF product_id ON cache_sidecar.products FOR EACH ROW EXECUTE FUNCTION cache_sidecar.await_product_deletion();
CREATE TRIGGER products_change AFTER INSERT OR DELETE OR UPDATE ON cache_sidecar.products FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('product', 'product_id');
CREATE TRIGGER products_version BEFORE INSERT OR UPDATE ON cache_sidecar.products FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER sessions_await_insert BEFORE INSERT ON cache_sidecar.sessions FOR EACH ROW WHEN ((new.user_id <> ''::text)) EXECUTE FUNCTION cache_sidecar.await_ending_of_sessions();
CREATE TRIGGER sessions_await_update BEFORE UPDATE OF user_id ON cache_sidecar.sessions FOR EACH ROW WHEN (((new.user_id <> ''::text) AND (new.user_id <> old.user_id))) EXECUTE FUNCTION cache_sidecar.await_ending_of_sessions();
CREATE TRIGGER sessions_change AFTER INSERT OR UPDATE OF session_hash, user_id, attributes, ip_address, user_agent, create_time, end_time, delete_time ON cache_sidecar.sessions FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('session', 'session_hash');
CREATE TRIGGER sessions_deletion AFTER DELETE ON cache_sidecar.sessions FOR EACH ROW WHEN ((current_setting('cache_sidecar.purging'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION cache_sidecar.emit_change('session', 'session_hash');
CREATE TRIGGER sessions_version BEFORE INSERT OR UPDATE OF session_hash, user_id, attributes, ip_address, user_agent, create_time, end_time, delete_time ON cache_sidecar.sessions FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
ALTER TABLE ONLY cache_sidecar.reservation_items
    ADD CONSTRAINT reservation_items_reservation_id_fkey FOREIGN KEY (reservation_id) REFERENCES cache_sidecar.reservations(reservation_id) ON DELETE CASCADE;
