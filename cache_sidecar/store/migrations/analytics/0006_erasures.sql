-- Replaces the one of 0005, which left the lists that the shop imported for a user.

CREATE OR REPLACE FUNCTION cache_sidecar.erase_recommendation_user(of_user text) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lists bigint;
BEGIN
    -- First of all, as a save does: whoever saves then finds another number of erasures.
    UPDATE cache_sidecar.recommendation_model SET erasures = erasures + 1;
    lists := cache_sidecar.delete_provided_lists(of_user);
    DELETE FROM cache_sidecar.recommendation_ahead WHERE user_id = of_user;
    RETURN QUERY DELETE FROM cache_sidecar.recommendation_users AS row WHERE row.user_id = of_user RETURNING row.user_id;
    IF NOT FOUND AND lists > 0 THEN
        RETURN NEXT of_user;
    END IF;
END $$;
