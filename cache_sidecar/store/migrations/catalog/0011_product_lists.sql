-- What ListProducts and GetCategories read: the active products in tables of their own, brought up to date from the changes in the
-- outbox, when these get their positions. So lists know of every change that products know of, whoever made it, of rows in this
-- schema or in a shop's own tables; no statement that changes a product waits for a lock on a list. See decision 7.

-- The shop's own order: the lowest first, products without a rank last. A view over a shop's own tables need not have it.
DO $$ BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = 'cache_sidecar.products'::regclass) = 'r' THEN
        ALTER TABLE cache_sidecar.products ADD COLUMN rank double precision;
    END IF;
END $$;

-- The active products, by what lists are ordered by.
CREATE TABLE cache_sidecar.product_entries (
    product_id text COLLATE "C" PRIMARY KEY,
    -- That of the product when this row was written: later changes that affect no list are not recorded.
    version    bigint NOT NULL,
    categories text[] NOT NULL,
    -- The first 100 characters.
    title      text NOT NULL,
    price      numeric NOT NULL,
    -- Microseconds since 1970 at which it was created, negated, so that the newest come first.
    newest     bigint NOT NULL,
    rank       double precision NOT NULL
);
CREATE INDEX product_entries_categories ON cache_sidecar.product_entries USING gin (categories);
CREATE INDEX product_entries_title ON cache_sidecar.product_entries (title, product_id);
CREATE INDEX product_entries_price ON cache_sidecar.product_entries (price, product_id);
CREATE INDEX product_entries_newest ON cache_sidecar.product_entries (newest, product_id);
CREATE INDEX product_entries_rank ON cache_sidecar.product_entries (rank, product_id);

-- What caches know lists by: `members:C` changes when a product enters or leaves the category C (all products, if C is empty), or
-- its time of creation changes; `title:C`, `price:C` and `rank:C` when that of a product in C changes; `categories:` when a product
-- enters or leaves any category. A list that never changed has no row.
CREATE TABLE cache_sidecar.product_lists (
    list_id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);

-- What the entries were made from, and why they could not be: one row.
CREATE TABLE cache_sidecar.product_list_state (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    definition text NOT NULL DEFAULT '',
    failure    text NOT NULL DEFAULT '',
    -- The products that changed since the failure, to be listed when it is over, and when the next attempt is due.
    missed     text[] NOT NULL DEFAULT '{}',
    next_try   timestamptz NOT NULL DEFAULT 'epoch'
);
INSERT INTO cache_sidecar.product_list_state DEFAULT VALUES;

-- Identifies what products are read from, also in a copy of the database: a view may replace the table, or another view.
CREATE FUNCTION cache_sidecar.products_definition() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT relkind::text || ' ' || md5(coalesce(pg_get_viewdef(oid), '')) FROM pg_class WHERE oid = 'cache_sidecar.products'::regclass
$$;

-- Brings the entries of these products, or of all for NULL, up to date, and gives the lists that this affects new versions, each of
-- them one, with its change in the outbox. The caller holds the lock of sequence_changes.
CREATE FUNCTION cache_sidecar.list_products(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    has_rank boolean := EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'cache_sidecar.products'::regclass AND attname = 'rank' AND NOT attisdropped);
    chosen   text := CASE WHEN ids IS NULL THEN 'true' ELSE 'product_id = ANY ($1)' END;
BEGIN
    EXECUTE format($query$
        WITH present AS MATERIALIZED (
            SELECT product_id COLLATE "C" AS product_id, version, categories COLLATE "default" AS categories,
                   left(title, 100) COLLATE "default" AS title,
                   round(price_units + price_nanos::numeric / 1000000000, 9) AS price,
                   CASE WHEN isfinite(create_time) THEN -(extract(epoch FROM create_time) * 1000000)::bigint
                        WHEN create_time > now() THEN -9223372036854775807 ELSE 9223372036854775807 END AS newest,
                   coalesce(nullif(%s, 'NaN'), 'Infinity') AS rank
            FROM cache_sidecar.products
            WHERE active AND %s AND title IS NOT NULL AND categories IS NOT NULL AND price_units IS NOT NULL
              AND price_nanos IS NOT NULL
        ), changed AS MATERIALIZED (
            SELECT coalesce(p.product_id, e.product_id) AS product_id, e.product_id IS NOT NULL AS was, p.product_id IS NOT NULL AS is_now,
                   p.version, e.categories AS old_categories, p.categories, p.title, p.price, p.newest, p.rank,
                   e.newest IS DISTINCT FROM p.newest AS by_newest, e.title IS DISTINCT FROM p.title AS by_title,
                   e.price IS DISTINCT FROM p.price AS by_price, e.rank IS DISTINCT FROM p.rank AS by_rank
            FROM (SELECT * FROM cache_sidecar.product_entries WHERE %s) AS e FULL JOIN present AS p ON p.product_id = e.product_id
            WHERE (e.product_id, e.categories, e.title, e.price, e.newest, e.rank)
                IS DISTINCT FROM (p.product_id, p.categories, p.title, p.price, p.newest, p.rank)
        ), left_all AS (
            DELETE FROM cache_sidecar.product_entries AS e USING changed AS c WHERE e.product_id = c.product_id AND NOT c.is_now
        ), written AS (
            INSERT INTO cache_sidecar.product_entries AS e (product_id, version, categories, title, price, newest, rank)
            SELECT product_id, version, categories, title, price, newest, rank FROM changed WHERE is_now
            ON CONFLICT (product_id) DO UPDATE SET version = excluded.version, categories = excluded.categories,
                title = excluded.title, price = excluded.price, newest = excluded.newest, rank = excluded.rank
        ), places AS (
            SELECT category, bool_or(was_there) AND bool_or(is_there) AS stays,
                   bool_or(by_newest) AS by_newest, bool_or(by_title) AS by_title, bool_or(by_price) AS by_price, bool_or(by_rank) AS by_rank
            FROM changed, LATERAL (
                SELECT category, true AS was_there, false AS is_there FROM unnest(old_categories || ''::text) AS category WHERE was
                UNION ALL
                SELECT category, false, true FROM unnest(categories || ''::text) AS category WHERE is_now) AS place
            WHERE category IS NOT NULL
            GROUP BY product_id, category
        ), affected AS (
            SELECT DISTINCT kind || category AS list_id
            FROM places, LATERAL (VALUES ('members:', NOT stays OR by_newest), ('title:', stays AND by_title),
                ('price:', stays AND by_price), ('rank:', stays AND by_rank)) AS list (kind, is_affected)
            WHERE is_affected
            UNION
            SELECT 'categories:' FROM places WHERE NOT stays AND category <> ''
        ), moved AS (
            INSERT INTO cache_sidecar.product_lists AS l (list_id, version)
            SELECT list_id, nextval('cache_sidecar.version_seq') FROM affected
            ON CONFLICT (list_id) DO UPDATE SET version = nextval('cache_sidecar.version_seq')
            RETURNING list_id, version
        )
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind, position)
        SELECT version, 'product_list', list_id, 'updated', nextval('cache_sidecar.position_seq') FROM moved$query$,
        CASE WHEN has_rank THEN 'rank' ELSE 'NULL' END || '::double precision', chosen, chosen) USING ids;
END $$;

-- As `list_products`, with all products if the relation is another one than before. What fails is kept for readers of lists, and
-- neither keeps changes from getting their positions nor delays them much: attempts take a tenth of the time at most. One that is
-- cancelled fails if it took long itself, and did not only wait for its turn. A great catalogue is left to `migrate`: no call of
-- a sidecar or a relay may take that long.
CREATE FUNCTION cache_sidecar.follow_products(ids text[], at_most bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    began  timestamptz := clock_timestamp();
    state  cache_sidecar.product_list_state;
    found  text;
    reason text;
BEGIN
    SELECT * INTO state FROM cache_sidecar.product_list_state;
    reason := state.failure;
    IF reason = '' OR state.next_try <= began THEN
        BEGIN
            found := cache_sidecar.products_definition();
            IF state.definition = found THEN
                PERFORM cache_sidecar.list_products(ids || state.missed);
            ELSIF (SELECT count(*) FROM (SELECT FROM cache_sidecar.products LIMIT at_most + 1) AS counted) > at_most THEN
                RAISE EXCEPTION 'cache_sidecar.products was replaced: run cache-sidecar migrate';
            ELSE
                PERFORM cache_sidecar.list_products(NULL);
            END IF;
            reason := '';
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            IF SQLSTATE = '57014' AND clock_timestamp() < began + interval '1 s' THEN
                RAISE;
            END IF;
            reason := left(SQLERRM, 200);
        END;
        IF reason = '' THEN
            UPDATE cache_sidecar.product_list_state SET definition = found, failure = '', missed = '{}'
            WHERE definition <> found OR failure <> '';
            RETURN;
        END IF;
        UPDATE cache_sidecar.product_list_state
        SET failure = reason, next_try = clock_timestamp() + greatest(10 * (clock_timestamp() - began), interval '0.5 s');
    END IF;
    UPDATE cache_sidecar.product_list_state SET missed = ARRAY(SELECT DISTINCT unnest(missed || ids)) WHERE ids IS NOT NULL;
    -- More than that are compared with all others instead.
    UPDATE cache_sidecar.product_list_state SET missed = '{}', definition = '' WHERE cardinality(missed) > 10000;
END $$;

-- As in 0001 of `shared`, and lists follow the changes of products: in the same transaction, so that whoever reads the outbox finds
-- the change of a list right after those that caused it. Fewer at a time, as a call of a sidecar or a relay ends in 2 s. And it
-- waits shortly for who locks the relation `products`, such as ALTER TABLE: all other changes would wait, too.
CREATE OR REPLACE FUNCTION cache_sidecar.sequence_changes() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done     bigint;
    products text[];
    patience text := current_setting('lock_timeout');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.sequence_changes'));
    WITH ordered AS (
        SELECT version, nextval('cache_sidecar.position_seq') AS next
        FROM (SELECT version FROM cache_sidecar.outbox WHERE position IS NULL ORDER BY version LIMIT 2000) AS new
    ), sequenced AS (
        UPDATE cache_sidecar.outbox SET position = ordered.next FROM ordered WHERE outbox.version = ordered.version
        RETURNING outbox.dataset, outbox.id
    )
    SELECT count(*), array_agg(DISTINCT id) FILTER (WHERE dataset = 'product') INTO done, products FROM sequenced;
    IF products IS NOT NULL OR EXISTS (SELECT FROM cache_sidecar.product_list_state WHERE failure <> '') THEN
        PERFORM set_config('lock_timeout', '200ms', true);
        PERFORM cache_sidecar.follow_products(products, 50000);
        PERFORM set_config('lock_timeout', patience, true);
    END IF;
    RETURN done;
END $$;

-- Compares all entries with the products, for `migrate`: after a TRUNCATE, or when a view was created over a shop's own tables.
CREATE FUNCTION cache_sidecar.list_all_products() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    failed text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.sequence_changes'));
    UPDATE cache_sidecar.product_list_state SET definition = '', next_try = 'epoch';
    PERFORM cache_sidecar.follow_products(NULL, 9223372036854775806);
    PERFORM pg_notify('cache_sidecar_outbox', '');
    SELECT failure INTO failed FROM cache_sidecar.product_list_state;
    RETURN failed;
END $$;
