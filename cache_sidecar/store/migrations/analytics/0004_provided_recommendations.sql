-- Lists that the shop's own job computed. They come in batches, of which one is served: the next one takes its place in one
-- transaction, however many lists it has.
CREATE TABLE cache_sidecar.recommendation_batches (
    batch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id    text COLLATE "C" NOT NULL UNIQUE CHECK (batch_id <> ''),
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'served', 'replaced')),
    -- Lists that are stored, from the first one of the batch on: an import that was interrupted goes on with the next one.
    next_list   bigint NOT NULL DEFAULT 0,
    update_time timestamptz NOT NULL DEFAULT now(),
    commit_time timestamptz
);
CREATE UNIQUE INDEX recommendation_batches_served ON cache_sidecar.recommendation_batches (state) WHERE state = 'served';

-- The best products first, for a user or for the page of a product; the other one of the two is empty.
CREATE TABLE cache_sidecar.provided_recommendations (
    batch       bigint NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    product_id  text COLLATE "C" NOT NULL,
    -- Such as RECOMMENDED_FOR_YOU.
    model       text COLLATE "C" NOT NULL,
    product_ids text[] NOT NULL,
    scores      real[] NOT NULL,
    PRIMARY KEY (batch, user_id, product_id, model),
    CHECK ((user_id = '') <> (product_id = '')),
    CHECK (cardinality(product_ids) = cardinality(scores))
)
-- Written once, and deleted when the next batch is there: the room is used by the one after that.
WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Deletes a user's lists, also in batches that are not served yet, and returns how many. Caches drop the user's home page: the
-- row of the user's history gets another version, or, without one, the outbox says that there is none.
CREATE FUNCTION cache_sidecar.delete_provided_lists(of_user text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM cache_sidecar.provided_recommendations
    WHERE batch IN (SELECT batch FROM cache_sidecar.recommendation_batches) AND user_id = of_user;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF deleted = 0 THEN
        RETURN 0;
    END IF;
    UPDATE cache_sidecar.recommendation_users SET history = history WHERE user_id = of_user;
    IF NOT FOUND THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (nextval('cache_sidecar.version_seq'), 'recommendation', of_user, 'deleted');
        PERFORM pg_notify('cache_sidecar_outbox', '');
    END IF;
    RETURN deleted;
END $$;

-- As in 0002, and the user's lists as well.
CREATE OR REPLACE FUNCTION cache_sidecar.erase_recommendation_user(of_user text) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lists bigint;
BEGIN
    UPDATE cache_sidecar.recommendation_model SET erasures = erasures + 1;
    lists := cache_sidecar.delete_provided_lists(of_user);
    RETURN QUERY DELETE FROM cache_sidecar.recommendation_users WHERE user_id = of_user RETURNING user_id;
    IF NOT FOUND AND lists > 0 THEN
        RETURN NEXT of_user;
    END IF;
END $$;

REVOKE EXECUTE ON FUNCTION cache_sidecar.delete_provided_lists(text) FROM PUBLIC;
