-- Caches may hold a list of a user of whom nothing is kept here: the shop's own model made it, or a batch that was replaced had it.

-- As in 0004, but caches drop the home page of a user without history even if there is nothing to delete.
CREATE OR REPLACE FUNCTION cache_sidecar.delete_provided_lists(of_user text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM cache_sidecar.provided_recommendations
    WHERE batch IN (SELECT batch FROM cache_sidecar.recommendation_batches) AND user_id = of_user;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF deleted > 0 THEN
        UPDATE cache_sidecar.recommendation_users SET history = history WHERE user_id = of_user;
    ELSE
        PERFORM FROM cache_sidecar.recommendation_users WHERE user_id = of_user;
    END IF;
    IF NOT FOUND THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (nextval('cache_sidecar.version_seq'), 'recommendation', of_user, 'deleted');
        PERFORM pg_notify('cache_sidecar_outbox', '');
    END IF;
    RETURN deleted;
END $$;

-- As in 0005, and the user's lists as well, as in 0004.
CREATE OR REPLACE FUNCTION cache_sidecar.erase_recommendation_user(of_user text) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lists bigint;
BEGIN
    UPDATE cache_sidecar.recommendation_model SET erasures = erasures + 1;
    DELETE FROM cache_sidecar.recommendation_ahead WHERE user_id = of_user;
    lists := cache_sidecar.delete_provided_lists(of_user);
    RETURN QUERY DELETE FROM cache_sidecar.recommendation_users AS row WHERE row.user_id = of_user RETURNING row.user_id;
    IF NOT FOUND AND lists > 0 THEN
        RETURN NEXT of_user;
    END IF;
END $$;
