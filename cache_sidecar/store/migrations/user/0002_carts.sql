CREATE TABLE cache_sidecar.carts (
    user_id     text COLLATE "C" PRIMARY KEY,
    -- The lines, in order: [{"product_id", "quantity", "price_units", "price_nanos", "currency_code", "options": {}}, ...].
    -- A cart is read and written whole, and its changes wait for each other: one row is what that takes.
    items       jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(items) = 'array'),
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    version     bigint NOT NULL
);
CREATE INDEX carts_idle ON cache_sidecar.carts (update_time, user_id) WHERE items <> '[]';

CREATE TRIGGER carts_version BEFORE INSERT OR UPDATE ON cache_sidecar.carts
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER carts_change AFTER INSERT OR UPDATE OR DELETE ON cache_sidecar.carts
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('cart', 'user_id');
