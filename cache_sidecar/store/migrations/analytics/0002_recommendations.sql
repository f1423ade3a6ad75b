-- What recommendations are computed from: sums over the shop's events, and what was derived from them for sidecars to read.
-- One process at a time writes all of it, see store/recommendation.py.

-- How far events are folded in. Changes with the rows below in one transaction.
CREATE TABLE cache_sidecar.recommendation_model (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position   bigint NOT NULL DEFAULT 0,
    -- The newest event, in seconds since 1970; 0 before the first.
    model_time double precision NOT NULL DEFAULT 0,
    -- Of all products together: the sum of their popularity, and customers with a purchase.
    popularity double precision NOT NULL DEFAULT 0,
    customers  bigint NOT NULL DEFAULT 0,
    -- Grows when a user is erased: what was read before is then not written back.
    erasures   bigint NOT NULL DEFAULT 0
);
INSERT INTO cache_sidecar.recommendation_model DEFAULT VALUES;

-- Sums per product. Those over pairs are packed with the other product's number: there are too many for a row each.
CREATE TABLE cache_sidecar.recommendation_items (
    number       integer PRIMARY KEY,
    product_id   text COLLATE "C" NOT NULL UNIQUE,
    popularity   double precision NOT NULL,
    baskets      double precision NOT NULL,
    customers    integer NOT NULL,
    together     bytea NOT NULL,
    also         bytea NOT NULL,
    -- Changed since its row in recommendation_rows was computed.
    is_stale     boolean NOT NULL DEFAULT true,
    publish_time timestamptz NOT NULL DEFAULT '-infinity'
)
-- The rows of products that sell are written again and again, a hundred times while years of events are folded in.
WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0,
      toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0);
CREATE INDEX recommendation_items_popular ON cache_sidecar.recommendation_items (popularity DESC, product_id);
CREATE INDEX recommendation_items_stale ON cache_sidecar.recommendation_items (publish_time, number) WHERE is_stale;
-- Numbers without a pattern: compressing them costs time and saves nothing.
ALTER TABLE cache_sidecar.recommendation_items
    ALTER COLUMN together SET STORAGE EXTERNAL, ALTER COLUMN also SET STORAGE EXTERNAL;

-- The neighbours of a product, best first, with their weights: bought in the same basket, and by the same customers.
CREATE TABLE cache_sidecar.recommendation_rows (
    product_id       text COLLATE "C" PRIMARY KEY,
    together         text[] NOT NULL,
    together_weights real[] NOT NULL,
    also             text[] NOT NULL,
    also_weights     real[] NOT NULL,
    model_time       double precision NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, toast_tuple_target = 128);
-- Full rows are compressed, all of their ids, and stay where they are: six to a page instead of four.
ALTER TABLE cache_sidecar.recommendation_rows ALTER COLUMN together SET STORAGE MAIN, ALTER COLUMN also SET STORAGE MAIN;

-- What a user bought, the newest first: {"baskets": [[time, event_id, [product_id, ...]], ...], "products": [[product_id, time],
-- ...]}, times in seconds since 1970. What a user viewed is not here: it would be rewritten with every view.
CREATE TABLE cache_sidecar.recommendation_users (
    user_id text COLLATE "C" PRIMARY KEY,
    history jsonb NOT NULL
);

-- Purchases that were folded in lately, by event_id: one that comes again, under another position, counts once.
CREATE TABLE cache_sidecar.recommendation_purchases (
    event_id  text COLLATE "C" PRIMARY KEY,
    fold_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX recommendation_purchases_age ON cache_sidecar.recommendation_purchases (fold_time);

-- Erases a user's history, and returns the user_id if there was one. Whoever saves changes locks the model's row first, too. So
-- this waits for a save, and then looks for the row in a second statement: a single one would miss what it waited for. A save that
-- comes later finds another number of erasures, and drops what it read before.
CREATE FUNCTION cache_sidecar.erase_recommendation_user(of_user text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE cache_sidecar.recommendation_model SET erasures = erasures + 1;
    RETURN QUERY DELETE FROM cache_sidecar.recommendation_users WHERE user_id = of_user RETURNING user_id;
END $$;
