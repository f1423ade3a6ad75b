-- The relay folds events into the model while the shop runs.

-- Users whose history in recommendation_users is ahead of the model's position, with the history as of that position; NULL if
-- they had none. A purchase is in its buyer's lists at once. What it changes of products, thousands of pairs in hundreds of rows,
-- is saved once a minute. A relay that dies in between leaves here what its successor continues from.
CREATE TABLE cache_sidecar.recommendation_ahead (
    user_id text COLLATE "C" PRIMARY KEY,
    history jsonb
);

-- As before; and what the user had at the model's position.
CREATE OR REPLACE FUNCTION cache_sidecar.erase_recommendation_user(of_user text) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE cache_sidecar.recommendation_model SET erasures = erasures + 1;
    DELETE FROM cache_sidecar.recommendation_ahead WHERE user_id = of_user;
    RETURN QUERY DELETE FROM cache_sidecar.recommendation_users AS row WHERE row.user_id = of_user RETURNING row.user_id;
END $$;

-- Forgets all events, so that they are folded in anew. Published rows, and what caches hold of users, stay until they are
-- written again: TRUNCATE fires no triggers.
CREATE FUNCTION cache_sidecar.clear_recommendations() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- First of all, as a save does: whoever saves then finds another number of erasures.
    UPDATE cache_sidecar.recommendation_model
    SET position = 0, model_time = 0, popularity = 0, customers = 0, erasures = erasures + 1;
    TRUNCATE cache_sidecar.recommendation_items, cache_sidecar.recommendation_users, cache_sidecar.recommendation_ahead,
             cache_sidecar.recommendation_purchases;
    PERFORM pg_notify('cache_sidecar_user_events', '');
END $$;

-- As before; and wakes the process that folds events in.
CREATE OR REPLACE FUNCTION cache_sidecar.insert_user_events(events text[], kept_after timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inserted bigint;
BEGIN
    INSERT INTO cache_sidecar.user_events
    SELECT given.event_id, cache_sidecar.event_time_of(given.event_id), nextval('cache_sidecar.event_position_seq'),
           given.event_type, given.user_id, coalesce(given.products, '[]'), given.value_units, given.value_nanos,
           given.currency_code, coalesce(given.search_query, ''), coalesce(given.attribution_token, ''),
           coalesce(given.experiment_id, ''), coalesce(given.variant, '')
    FROM unnest(events) WITH ORDINALITY AS line (event, number), jsonb_to_record(line.event::jsonb) AS given (
        event_id uuid, event_type text, user_id text, products jsonb, value_units bigint, value_nanos integer,
        currency_code text, search_query text, attribution_token text, experiment_id text, variant text)
    WHERE (cache_sidecar.event_time_of(given.event_id) < kept_after) IS NOT TRUE
    ORDER BY line.number
    ON CONFLICT (event_id, event_time) DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;
    IF inserted > 0 THEN
        PERFORM pg_notify('cache_sidecar_user_events', '');
    END IF;
    RETURN inserted;
END $$;

-- They run with the rights of their owner.
REVOKE EXECUTE ON FUNCTION cache_sidecar.erase_recommendation_user(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION cache_sidecar.clear_recommendations() FROM PUBLIC;
