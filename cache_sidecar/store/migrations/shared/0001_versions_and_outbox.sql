-- What every dataset of a database shares: one sequence of versions, the outbox, and the ledger of requests. A database has
-- them once, however many roles it plays.

-- The version of a change. Drawn inside the statement that makes it, so that the versions of one row follow the order
-- of its commits.
CREATE SEQUENCE cache_sidecar.version_seq AS bigint;

-- Every committed change, written by the transaction that makes it, and kept for a while for relays and watchers.
-- `position` is NULL at first: transactions don't commit in the order of their versions, so the order to read changes in
-- is decided afterwards, by sequence_changes().
CREATE TABLE cache_sidecar.outbox (
    version     bigint PRIMARY KEY,
    dataset     text NOT NULL,
    id          text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('created', 'updated', 'deleted')),
    change_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    position    bigint UNIQUE
);
CREATE INDEX outbox_unsequenced ON cache_sidecar.outbox (version) WHERE position IS NULL;

CREATE SEQUENCE cache_sidecar.position_seq AS bigint;

-- Gives committed changes their positions, and returns how many. One caller at a time does it, until its commit, and the
-- statement that looks for changes sees what the one before committed. So positions appear in order, without gaps that fill later, and the changes of one row
-- keep the order of their versions: who sees a row's later change committed sees the earlier one too.
CREATE FUNCTION cache_sidecar.sequence_changes() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    done bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.sequence_changes'));
    WITH ordered AS (
        SELECT version, nextval('cache_sidecar.position_seq') AS next
        FROM (SELECT version FROM cache_sidecar.outbox WHERE position IS NULL ORDER BY version LIMIT 10000) AS new
    )
    UPDATE cache_sidecar.outbox SET position = ordered.next FROM ordered WHERE outbox.version = ordered.version;
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END $$;

-- How far each region's relay has told its Redis.
CREATE TABLE cache_sidecar.relays (
    region      text PRIMARY KEY,
    position    bigint NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now()
);

-- The first reply to each request_id, so that a repeat gets it once more; and what it changed, so that the sidecar that is
-- asked again, which may be another one, answers no read with anything older.
CREATE TABLE cache_sidecar.requests (
    request_id  uuid PRIMARY KEY,
    method      text NOT NULL,
    fingerprint bytea NOT NULL,
    reply       bytea NOT NULL,
    ids         text[] NOT NULL,
    versions    bigint[] NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX requests_age ON cache_sidecar.requests (create_time);

-- BEFORE INSERT OR UPDATE on a table with a `version` column: gives the row its next version.
CREATE FUNCTION cache_sidecar.next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := nextval('cache_sidecar.version_seq');
    RETURN NEW;
END $$;

-- AFTER INSERT OR UPDATE OR DELETE on any table, `emit_change(dataset, id column)`: writes the outbox row and wakes the
-- relay. Attach it to a shop's own tables too. A row of this schema brings its version; others get one here.
CREATE FUNCTION cache_sidecar.emit_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    old_id  text := old_row ->> TG_ARGV[1];
    new_id  text := new_row ->> TG_ARGV[1];
BEGIN
    IF old_id IS NOT NULL AND old_id IS DISTINCT FROM new_id THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (nextval('cache_sidecar.version_seq'), TG_ARGV[0], old_id, 'deleted');
    END IF;
    IF new_id IS NOT NULL THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (CASE WHEN TG_TABLE_SCHEMA = 'cache_sidecar' THEN (new_row ->> 'version')::bigint
                     ELSE nextval('cache_sidecar.version_seq') END,
                TG_ARGV[0], new_id, CASE WHEN old_id IS DISTINCT FROM new_id THEN 'created' ELSE 'updated' END);
    END IF;
    PERFORM pg_notify('cache_sidecar_outbox', '');
    RETURN NULL;
END $$;
