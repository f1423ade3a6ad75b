-- A row of stock that is inserted while another transaction still deletes it waits before it draws its version, as products
-- do: caches would take it for older than its deletion. Triggers fire in the order of their names.
CREATE FUNCTION cache_sidecar.await_inventory_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM cache_sidecar.inventory WHERE product_id = NEW.product_id AND bucket = NEW.bucket FOR KEY SHARE;
    RETURN NEW;
END $$;

CREATE TRIGGER inventory_await BEFORE INSERT OR UPDATE OF product_id, bucket ON cache_sidecar.inventory
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.await_inventory_deletion();
