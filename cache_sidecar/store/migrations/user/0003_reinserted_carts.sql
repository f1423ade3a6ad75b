-- A cart that is inserted while another transaction still deletes it waits before it draws its version, as products do: caches
-- would take it for older than its deletion. Triggers fire in the order of their names.
CREATE FUNCTION cache_sidecar.await_cart_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM cache_sidecar.carts WHERE user_id = NEW.user_id FOR KEY SHARE;
    RETURN NEW;
END $$;

CREATE TRIGGER carts_await BEFORE INSERT ON cache_sidecar.carts
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.await_cart_deletion();
