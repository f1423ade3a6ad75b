-- A product that is inserted while another transaction still deletes it would draw its version first and wait afterwards, for
-- the unique index: caches would take it for older than its deletion. So it waits before it draws. Triggers fire in the order
-- of their names.
CREATE FUNCTION cache_sidecar.await_product_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM cache_sidecar.products WHERE product_id = NEW.product_id FOR KEY SHARE;
    RETURN NEW;
END $$;

CREATE TRIGGER products_await BEFORE INSERT OR UPDATE OF product_id ON cache_sidecar.products
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.await_product_deletion();
