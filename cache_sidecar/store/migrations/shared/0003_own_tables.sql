-- A shop keeps its own tables: views of our names over them, and the trigger emit_change on them. store/README.md shows how.

-- The versions of what is in such tables; that of a deletion is kept, so that nothing older comes back.
CREATE TABLE cache_sidecar.versions (
    dataset text NOT NULL,
    id      text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (dataset, id)
);

-- What a view shows as `version`. 1 is that of a row that did not change yet; no change has it.
SELECT nextval('cache_sidecar.version_seq');
CREATE FUNCTION cache_sidecar.version_of(of_dataset text, of_id text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT version FROM cache_sidecar.versions WHERE dataset = of_dataset AND id = of_id), 1)
$$;

-- Draws the next version of what is in a shop's own tables: after waiting for whoever changes it too, in another table.
CREATE FUNCTION cache_sidecar.draw_version(of_dataset text, of_id text) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO cache_sidecar.versions (dataset, id, version) VALUES (of_dataset, of_id, nextval('cache_sidecar.version_seq'))
    ON CONFLICT (dataset, id) DO UPDATE SET version = nextval('cache_sidecar.version_seq')
    RETURNING version
$$;

-- As before, and for a shop's own tables. Runs with the rights of its owner: whoever may change the table needs no others.
CREATE OR REPLACE FUNCTION cache_sidecar.emit_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_ours boolean := TG_TABLE_SCHEMA = 'cache_sidecar';
    old_row jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    new_row jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    old_id  text := old_row ->> TG_ARGV[1];
    new_id  text := new_row ->> TG_ARGV[1];
BEGIN
    IF old_id IS NOT NULL AND old_id IS DISTINCT FROM new_id THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (CASE WHEN is_ours THEN nextval('cache_sidecar.version_seq')
                     ELSE cache_sidecar.draw_version(TG_ARGV[0], old_id) END,
                TG_ARGV[0], old_id, 'deleted');
    END IF;
    IF new_id IS NOT NULL THEN
        INSERT INTO cache_sidecar.outbox (version, dataset, id, kind)
        VALUES (CASE WHEN is_ours THEN (new_row ->> 'version')::bigint
                     ELSE cache_sidecar.draw_version(TG_ARGV[0], new_id) END,
                TG_ARGV[0], new_id, CASE WHEN old_id IS DISTINCT FROM new_id THEN 'created' ELSE 'updated' END);
    END IF;
    PERFORM pg_notify('cache_sidecar_outbox', '');
    RETURN NULL;
END $$;
