-- What users did, one row for each event_id, in a partition for each day (UTC). Written by add_user_events() alone.
--
-- PostgreSQL enforces a key of a partitioned table only if it contains what the table is partitioned by. So the time is that in
-- the event_id, a UUID of version 7: a retry with the same id cannot say another time, and the key is unique by event_id.
CREATE TABLE cache_sidecar.user_events (
    event_id          uuid NOT NULL,
    event_time        timestamptz NOT NULL,
    -- The order to read events in: whoever has read up to a position misses nothing that is committed later.
    position          bigint NOT NULL,
    event_type        text COLLATE "C" NOT NULL CHECK (event_type IN (
        'detail-page-view', 'add-to-cart', 'remove-from-cart', 'purchase-complete', 'search', 'home-page-view',
        'shopping-cart-page-view')),
    user_id           text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    -- [{"product_id", "quantity", "price_units", "price_nanos", "currency_code"}, ...]; the last three only with a price.
    products          jsonb NOT NULL CHECK (jsonb_typeof(products) = 'array'),
    value_units       bigint,
    value_nanos       integer,
    currency_code     text,
    search_query      text NOT NULL,
    attribution_token text NOT NULL,
    experiment_id     text NOT NULL,
    variant           text NOT NULL,
    PRIMARY KEY (event_id, event_time)
) PARTITION BY RANGE (event_time);
CREATE INDEX user_events_position ON cache_sidecar.user_events (position);
CREATE INDEX user_events_user ON cache_sidecar.user_events (user_id, event_time);

CREATE SEQUENCE cache_sidecar.event_position_seq AS bigint;

-- How far the relay of each region is: everything that was in its Redis when a mark was committed is in PostgreSQL.
CREATE TABLE cache_sidecar.event_marks (
    mark          bigint PRIMARY KEY,
    -- Set for an erasure: each relay erases the user's events once more, after those that were still in its Redis.
    erase_user_id text COLLATE "C",
    create_time   timestamptz NOT NULL DEFAULT now()
);
CREATE SEQUENCE cache_sidecar.event_mark_seq AS bigint;
CREATE TABLE cache_sidecar.event_relays (
    region      text PRIMARY KEY,
    mark        bigint NOT NULL,
    update_time timestamptz NOT NULL DEFAULT now()
);

-- The time in a UUID of version 7.
CREATE FUNCTION cache_sidecar.event_time_of(event_id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_timestamp(('x0000' || left(translate(event_id::text, '-', ''), 12))::bit(64)::bigint / 1000.0::double precision)
$$;

-- Makes the partition of a day if there is none. Attached, not created in place, which would wait for every reader and keep
-- others waiting.
CREATE FUNCTION cache_sidecar.make_event_partition(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := 'user_events_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass('cache_sidecar.' || partition) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Another caller may have made it meanwhile; only a lock on a table has this session notice.
    LOCK TABLE cache_sidecar.user_events IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass('cache_sidecar.' || partition) IS NOT NULL THEN
        RETURN;
    END IF;
    IF day > (now() AT TIME ZONE 'UTC')::date + 7 THEN
        RAISE datetime_field_overflow USING MESSAGE = 'a partition of events is made at most a week ahead';
    END IF;
    EXECUTE format('CREATE TABLE cache_sidecar.%I (LIKE cache_sidecar.user_events INCLUDING ALL)', partition);
    EXECUTE format('ALTER TABLE cache_sidecar.user_events ATTACH PARTITION cache_sidecar.%I FOR VALUES FROM (%L) TO (%L)',
                   partition, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
END $$;

-- Drops the partitions of all days before one, and returns how many. Gives up, to be called again, when it has to wait for
-- readers: whoever comes after it waits, too.
CREATE FUNCTION cache_sidecar.drop_event_partitions(before date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    partition text;
    dropped   bigint := 0;
BEGIN
    FOR partition IN
        SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'cache_sidecar.user_events'::regclass
          AND child.relname < 'user_events_' || to_char(before, 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE cache_sidecar.%I', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
EXCEPTION WHEN lock_not_available THEN
    RETURN 0;
END $$;

-- Inserts events, each a JSON object with the columns of user_events; see add_user_events.
CREATE FUNCTION cache_sidecar.insert_user_events(events text[], kept_after timestamptz) RETURNS bigint
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
    RETURN inserted;
END $$;

-- Writes events that are not there yet and not older than `kept_after`. Returns how many it wrote, and how many are no events:
-- these are left out, so that none of them keeps others from being written.
--
-- One caller at a time, until its commit, as positions are drawn inside. Otherwise: A draws 1 -> B draws 2 and commits -> a
-- reader reads 2 and remembers it -> A commits 1, which nobody reads.
CREATE FUNCTION cache_sidecar.add_user_events(events text[], kept_after timestamptz, OUT added bigint, OUT unreadable bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    event text;
    event_time timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.user_events'));
    added := 0;
    unreadable := 0;
    BEGIN
        added := cache_sidecar.insert_user_events(events, kept_after);
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        -- One of them is no event, or of a day without a partition: those that the relay makes ahead are missing.
        FOREACH event IN ARRAY events LOOP
            BEGIN
                event_time := cache_sidecar.event_time_of((event::jsonb ->> 'event_id')::uuid);
                IF (event_time < kept_after) IS NOT TRUE THEN
                    PERFORM cache_sidecar.make_event_partition((event_time AT TIME ZONE 'UTC')::date);
                END IF;
                added := added + cache_sidecar.insert_user_events(ARRAY[event], kept_after);
            EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
                unreadable := unreadable + 1;
            END;
        END LOOP;
    END;
END $$;

-- They run with the rights of their owner.
REVOKE EXECUTE ON FUNCTION cache_sidecar.make_event_partition(date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION cache_sidecar.drop_event_partitions(date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION cache_sidecar.add_user_events(text[], timestamptz) FROM PUBLIC;
