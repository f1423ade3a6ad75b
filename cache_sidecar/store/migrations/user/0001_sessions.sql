-- A session is named by the SHA-256 of its session_id, in hexadecimal; the id itself is nowhere. One that is ended keeps its
-- row for a day, so that ending it can be repeated until Redis has heard of it. To end sessions in SQL, set delete_time or
-- delete the rows: every cache hears of both.
CREATE TABLE cache_sidecar.sessions (
    session_hash text COLLATE "C" PRIMARY KEY CHECK (session_hash ~ '^[0-9a-f]{64}$'),
    user_id      text COLLATE "C" NOT NULL DEFAULT '',
    attributes   jsonb NOT NULL DEFAULT '{}',
    ip_address   text NOT NULL DEFAULT '',
    user_agent   text NOT NULL DEFAULT '',
    create_time  timestamptz NOT NULL DEFAULT now(),
    update_time  timestamptz NOT NULL DEFAULT now(),
    -- When it is over, as of the last use that was written here: Redis may know of a later one, by up to 5 minutes.
    expire_time  timestamptz NOT NULL,
    end_time     timestamptz NOT NULL,
    delete_time  timestamptz,
    version      bigint NOT NULL
);
CREATE INDEX sessions_user ON cache_sidecar.sessions (user_id, create_time DESC, session_hash) WHERE user_id <> '';
CREATE INDEX sessions_expired ON cache_sidecar.sessions (expire_time);
CREATE INDEX sessions_deleted ON cache_sidecar.sessions (delete_time) WHERE delete_time IS NOT NULL;

-- Use alone, which sets expire_time, is no change: no new version, and no cache has to hear of it.
CREATE TRIGGER sessions_version
    BEFORE INSERT OR UPDATE OF session_hash, user_id, attributes, ip_address, user_agent, create_time, end_time, delete_time
    ON cache_sidecar.sessions FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER sessions_change
    AFTER INSERT OR UPDATE OF session_hash, user_id, attributes, ip_address, user_agent, create_time, end_time, delete_time
    ON cache_sidecar.sessions FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('session', 'session_hash');
-- The relay deletes the rows of sessions that are long over: nobody has to hear of that.
CREATE TRIGGER sessions_deletion AFTER DELETE ON cache_sidecar.sessions FOR EACH ROW
    WHEN (current_setting('cache_sidecar.purging', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION cache_sidecar.emit_change('session', 'session_hash');
