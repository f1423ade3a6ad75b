-- What SearchProducts reads: the active products as documents of PostgreSQL's full text search, in a table of their own. Relays bring
-- it up to date behind the changes in the outbox, so it follows a view over a shop's own tables as it follows the table of products,
-- and no writer waits for it. See decision 8.

CREATE TABLE cache_sidecar.product_documents (
    product_id    text COLLATE "C" PRIMARY KEY,
    -- That of the product when this row was written.
    version       bigint NOT NULL,
    categories    text[] NOT NULL,
    brand         text NOT NULL,
    price         numeric NOT NULL,
    currency_code text NOT NULL,
    attributes    jsonb NOT NULL,
    document      tsvector NOT NULL
);
-- Without a list of pending entries, which every search would read: no caller waits for an insertion.
CREATE INDEX product_documents_document ON cache_sidecar.product_documents USING gin (document) WITH (fastupdate = off);

-- How far the documents are: one row.
CREATE TABLE cache_sidecar.product_search_state (
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    -- The text search configuration of all documents, with its schema.
    language    text NOT NULL DEFAULT 'pg_catalog.english',
    -- What the documents were made from, see `products_definition`.
    definition  text NOT NULL DEFAULT '',
    -- The change in the outbox up to which they are.
    position    bigint NOT NULL DEFAULT 0,
    -- The product up to which all are being compared; NULL when they have been.
    after       text COLLATE "C" DEFAULT '',
    -- Whether they have been once, in this language.
    is_complete boolean NOT NULL DEFAULT false
);
INSERT INTO cache_sidecar.product_search_state DEFAULT VALUES;

-- Writes the documents of these products, and deletes those of products that are not active or not there.
--
-- The words of the title and the brand are there in two forms: as the language has them, and as they are, for beginnings of words.
-- Texts are cut, as PostgreSQL limits a document to 1 MB.
CREATE FUNCTION cache_sidecar.write_documents(ids text[], language regconfig) RETURNS void LANGUAGE sql AS $$
    WITH present AS MATERIALIZED (
        SELECT product_id COLLATE "C" AS product_id, coalesce(version, 0) AS version,
               coalesce(categories, '{}') COLLATE "default" AS categories, coalesce(brand, '') AS brand,
               round(coalesce(price_units, 0) + coalesce(price_nanos, 0)::numeric / 1000000000, 9) AS price,
               coalesce(currency_code, '') AS currency_code,
               CASE jsonb_typeof(attributes) WHEN 'object' THEN attributes ELSE '{}' END AS attributes,
               left(title, 1000) AS title, left(description, 20000) AS description
        FROM cache_sidecar.products WHERE active AND product_id = ANY (ids)
    ), gone AS (
        DELETE FROM cache_sidecar.product_documents
        WHERE product_id = ANY (ids) AND product_id NOT IN (SELECT product_id FROM present)
    )
    INSERT INTO cache_sidecar.product_documents AS d
        (product_id, version, categories, brand, price, currency_code, attributes, document)
    SELECT product_id, version, categories, brand, price, currency_code, attributes,
           setweight(to_tsvector(language, concat_ws(' ', title, product_id)), 'A')
           || setweight(to_tsvector('simple', concat_ws(' ', title, left(brand, 1000))), 'A')
           || setweight(to_tsvector(language, left(brand, 1000)), 'B')
           || setweight(to_tsvector(language, left(translate(array_to_string(categories, ' '), '/', ' '), 20000)), 'C')
           || setweight(to_tsvector(language, left((SELECT coalesce(string_agg(value, ' '), '') FROM jsonb_each_text(attributes)), 20000)), 'C')
           || setweight(to_tsvector(language, coalesce(description, '')), 'D')
    FROM (SELECT product_id, version, categories, brand, price, currency_code, attributes, title, description FROM present) AS p
    ON CONFLICT (product_id) DO UPDATE SET version = excluded.version, categories = excluded.categories, brand = excluded.brand,
        price = excluded.price, currency_code = excluded.currency_code, attributes = excluded.attributes, document = excluded.document
    WHERE (d.categories, d.brand, d.price, d.currency_code, d.attributes, d.document, d.version) IS DISTINCT FROM (excluded.categories,
        excluded.brand, excluded.price, excluded.currency_code, excluded.attributes, excluded.document, excluded.version)
$$;

-- Writes the documents of products that changed, or, after `reindex_products` and when changes may have been missed, of all of them: of
-- `at_most` products. Returns how many those were; 0 if nothing is left to do, or another relay is doing it.
--
-- A product whose values cannot be indexed is left out, and not returned by searches: none keeps others from being found.
CREATE FUNCTION cache_sidecar.index_products(at_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state   cache_sidecar.product_search_state;
    ids     text[];
    one     text;
    reached bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('cache_sidecar.index_products')) THEN
        RETURN 0;
    END IF;
    SELECT * INTO state FROM cache_sidecar.product_search_state;
    SELECT coalesce(max(position), 0) INTO reached FROM cache_sidecar.outbox;
    IF state.definition <> cache_sidecar.products_definition()
        OR (state.position < reached AND state.position + 1 < (SELECT min(position) FROM cache_sidecar.outbox)) THEN
        -- The relation is another one, or changes after that position may be gone. Numbers that were never given look like that, too.
        state.after := '';
    END IF;
    IF state.after IS NOT NULL THEN
        IF state.after = '' THEN
            state.position := reached;
            state.definition := cache_sidecar.products_definition();
        END IF;
        SELECT array_agg(product_id ORDER BY product_id) INTO ids FROM (
            SELECT product_id FROM (
                (SELECT product_id COLLATE "C" FROM cache_sidecar.products
                 WHERE product_id COLLATE "C" > state.after ORDER BY 1 LIMIT at_most)
                UNION
                (SELECT product_id FROM cache_sidecar.product_documents
                 WHERE product_id > state.after ORDER BY 1 LIMIT at_most)
            ) AS either ORDER BY product_id LIMIT at_most) AS next;
        state.after := CASE WHEN cardinality(ids) = at_most THEN ids[at_most] END;
        state.is_complete := state.is_complete OR state.after IS NULL;
    ELSE
        SELECT array_agg(DISTINCT id), CASE WHEN count(*) = at_most THEN max(position) ELSE reached END INTO ids, reached FROM (
            SELECT id, position FROM cache_sidecar.outbox
            WHERE position > state.position AND position <= reached AND dataset = 'product' ORDER BY position LIMIT at_most) AS changed;
        state.position := reached;
    END IF;
    BEGIN
        PERFORM cache_sidecar.write_documents(ids, state.language::regconfig);
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        FOREACH one IN ARRAY ids LOOP
            BEGIN
                PERFORM cache_sidecar.write_documents(ARRAY[one], state.language::regconfig);
            EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
                DELETE FROM cache_sidecar.product_documents WHERE product_id = one;
            END;
        END LOOP;
    END;
    UPDATE cache_sidecar.product_search_state
    SET (position, definition, after, is_complete) = (state.position, state.definition, state.after, state.is_complete)
    WHERE (position, definition, after, is_complete)
        IS DISTINCT FROM (state.position, state.definition, state.after, state.is_complete);
    RETURN coalesce(cardinality(ids), 0);
END $$;
REVOKE EXECUTE ON FUNCTION cache_sidecar.index_products(integer) FROM PUBLIC;

-- For `migrate`: has all products compared with their documents, after a TRUNCATE or when a view was replaced, and written anew if the
-- language is another one. Searches find nothing until that is done. Raises undefined_object for a language that does not exist.
CREATE FUNCTION cache_sidecar.reindex_products(wanted text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    SELECT format('%I.%I', nspname, cfgname) INTO found
    FROM pg_ts_config JOIN pg_namespace ON pg_namespace.oid = cfgnamespace WHERE pg_ts_config.oid = wanted::regconfig;
    PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.index_products'));
    UPDATE cache_sidecar.product_search_state SET after = '', is_complete = is_complete AND language = found, language = found;
END $$;
