CREATE TABLE cache_sidecar.products (
    -- Ids are ordered by their bytes, in every database alike.
    product_id    text COLLATE "C" PRIMARY KEY,
    title         text NOT NULL,
    description   text NOT NULL DEFAULT '',
    price_units   bigint NOT NULL CHECK (price_units >= 0),
    price_nanos   integer NOT NULL DEFAULT 0 CHECK (price_nanos BETWEEN 0 AND 999999999),
    currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    categories    text[] NOT NULL DEFAULT '{}',
    brand         text NOT NULL DEFAULT '',
    image_uris    text[] NOT NULL DEFAULT '{}',
    attributes    jsonb NOT NULL DEFAULT '{}',
    active        boolean NOT NULL DEFAULT true,
    create_time   timestamptz NOT NULL DEFAULT now(),
    update_time   timestamptz NOT NULL DEFAULT now(),
    version       bigint NOT NULL
);
CREATE INDEX products_categories ON cache_sidecar.products USING gin (categories);

CREATE TRIGGER products_version BEFORE INSERT OR UPDATE ON cache_sidecar.products
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER products_change AFTER INSERT OR UPDATE OR DELETE ON cache_sidecar.products
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('product', 'product_id');
