-- Ending all sessions of a user takes turns with whatever adds one to them. Without that, the UPDATE that ends them misses a
-- session that was inserted after it began: a rotation commits the new session while the UPDATE waits for the row of the old
-- one, and the new one stays alive.
--
-- Taken for the rest of the transaction, before any row is locked: shared by whoever adds a session, exclusive by whoever ends
-- all of them and then looks for them in a second statement. 1,024 locks are enough to keep users apart, and few enough for the
-- lock table of PostgreSQL when an import adds sessions of thousands of users.
CREATE FUNCTION cache_sidecar.lock_user_sessions(of_user text, exclusive boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF of_user = '' THEN
        RETURN;  -- nobody can end all anonymous sessions
    ELSIF exclusive THEN
        PERFORM pg_advisory_xact_lock(hashtext('cache_sidecar.sessions'), hashtext(of_user) & 1023);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtext('cache_sidecar.sessions'), hashtext(of_user) & 1023);
    END IF;
END $$;

-- Whoever writes into the table, an import or another program, too. Triggers fire in the order of their names: the version is
-- drawn after the wait.
CREATE FUNCTION cache_sidecar.await_ending_of_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cache_sidecar.lock_user_sessions(NEW.user_id, exclusive => false);
    RETURN NEW;
END $$;

CREATE TRIGGER sessions_await_insert BEFORE INSERT ON cache_sidecar.sessions
    FOR EACH ROW WHEN (NEW.user_id <> '')
    EXECUTE FUNCTION cache_sidecar.await_ending_of_sessions();
CREATE TRIGGER sessions_await_update BEFORE UPDATE OF user_id ON cache_sidecar.sessions
    FOR EACH ROW WHEN (NEW.user_id <> '' AND NEW.user_id <> OLD.user_id)
    EXECUTE FUNCTION cache_sidecar.await_ending_of_sessions();
