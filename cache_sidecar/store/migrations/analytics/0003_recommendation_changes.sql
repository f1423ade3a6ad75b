-- What sidecars cache of recommendations gets versions, and its changes go into the outbox, as those of products do. By
-- statements, not rows: many users are saved in one, and their histories are long.

-- A user's row is behind two cached values, the home page's list and the profile. A version names one change of one dataset in the
-- outbox, so each of the two has a version of its own.
ALTER TABLE cache_sidecar.recommendation_users
    ADD COLUMN version bigint NOT NULL DEFAULT nextval('cache_sidecar.version_seq'),
    ADD COLUMN profile_version bigint NOT NULL DEFAULT nextval('cache_sidecar.version_seq');
ALTER TABLE cache_sidecar.recommendation_rows
    ADD COLUMN version bigint NOT NULL DEFAULT nextval('cache_sidecar.version_seq');
-- Each update has to draw the next ones, so the triggers do, for new rows as well.
ALTER TABLE cache_sidecar.recommendation_users
    ALTER COLUMN version DROP DEFAULT, ALTER COLUMN profile_version DROP DEFAULT;
ALTER TABLE cache_sidecar.recommendation_rows ALTER COLUMN version DROP DEFAULT;

CREATE VIEW cache_sidecar.recommendation_profiles AS
    SELECT user_id, history, profile_version AS version FROM cache_sidecar.recommendation_users;

-- The most popular products with their shares of all purchases, best first: one row, named `all`.
CREATE TABLE cache_sidecar.recommendation_popular (
    name         text COLLATE "C" PRIMARY KEY,
    product_ids  text[] NOT NULL,
    shares       double precision[] NOT NULL,
    model_time   double precision NOT NULL,
    publish_time timestamptz NOT NULL DEFAULT now(),
    version      bigint NOT NULL
);

CREATE FUNCTION cache_sidecar.next_user_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := nextval('cache_sidecar.version_seq');
    NEW.profile_version := nextval('cache_sidecar.version_seq');
    RETURN NEW;
END $$;
CREATE TRIGGER recommendation_users_version BEFORE INSERT OR UPDATE ON cache_sidecar.recommendation_users
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_user_versions();
CREATE TRIGGER recommendation_rows_version BEFORE INSERT OR UPDATE ON cache_sidecar.recommendation_rows
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER recommendation_popular_version BEFORE INSERT OR UPDATE ON cache_sidecar.recommendation_popular
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();

-- The rights and the path are as those of emit_change. `changed` are the rows of the statement, after it; the rows before it, if
-- it deletes them.
CREATE FUNCTION cache_sidecar.emit_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        SELECT nextval('cache_sidecar.version_seq'), dataset, user_id, 'deleted'
        FROM changed, unnest(ARRAY['recommendation', 'recommendation_profile']) AS dataset;
    ELSE
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        SELECT version, 'recommendation', user_id, TG_ARGV[0] FROM changed
        UNION ALL SELECT profile_version, 'recommendation_profile', user_id, TG_ARGV[0] FROM changed;
    END IF;
    IF FOUND THEN PERFORM pg_notify('cache_sidecar_outbox', ''); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER recommendation_users_inserts AFTER INSERT ON cache_sidecar.recommendation_users
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_users('created');
CREATE TRIGGER recommendation_users_updates AFTER UPDATE ON cache_sidecar.recommendation_users
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_users('updated');
CREATE TRIGGER recommendation_users_deletes AFTER DELETE ON cache_sidecar.recommendation_users
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_users();

-- A model that is cleared to be learned anew: no trigger sees the rows of a TRUNCATE, so this emits them before.
CREATE FUNCTION cache_sidecar.emit_truncated_users() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
    SELECT nextval('cache_sidecar.version_seq'), dataset, user_id, 'deleted'
    FROM cache_sidecar.recommendation_users, unnest(ARRAY['recommendation', 'recommendation_profile']) AS dataset;
    IF FOUND THEN PERFORM pg_notify('cache_sidecar_outbox', ''); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER recommendation_users_truncate BEFORE TRUNCATE ON cache_sidecar.recommendation_users
    FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_truncated_users();

CREATE FUNCTION cache_sidecar.emit_items() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
    SELECT CASE WHEN TG_OP = 'DELETE' THEN nextval('cache_sidecar.version_seq') ELSE version END,
           'recommendation_item', product_id, TG_ARGV[0]
    FROM changed;
    IF FOUND THEN PERFORM pg_notify('cache_sidecar_outbox', ''); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER recommendation_rows_inserts AFTER INSERT ON cache_sidecar.recommendation_rows
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_items('created');
CREATE TRIGGER recommendation_rows_updates AFTER UPDATE ON cache_sidecar.recommendation_rows
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_items('updated');
CREATE TRIGGER recommendation_rows_deletes AFTER DELETE ON cache_sidecar.recommendation_rows
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cache_sidecar.emit_items('deleted');

CREATE TRIGGER recommendation_popular_change AFTER INSERT OR UPDATE OR DELETE ON cache_sidecar.recommendation_popular
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('recommendation_popular', 'name');

-- Whoever may attach one of these to a table of its own can publish changes of any id: see 0005 of `shared`.
REVOKE EXECUTE ON FUNCTION cache_sidecar.emit_users(), cache_sidecar.emit_truncated_users(), cache_sidecar.emit_items()
    FROM PUBLIC;

-- `cache-sidecar user erase` runs with the rights of a sidecar, which writes nothing else here.
ALTER FUNCTION cache_sidecar.erase_recommendation_user(text) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
REVOKE EXECUTE ON FUNCTION cache_sidecar.erase_recommendation_user(text) FROM PUBLIC;
