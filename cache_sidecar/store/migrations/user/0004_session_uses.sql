-- What is kept is when a session was last used, not when it is over: how long after that it is, the policy says, and a change of
-- the policy counts for the sessions that are there. Until now that was 30 minutes, if nobody said otherwise.
ALTER TABLE cache_sidecar.sessions RENAME COLUMN expire_time TO use_time;
UPDATE cache_sidecar.sessions SET use_time = use_time - interval '30 minutes';
ALTER INDEX cache_sidecar.sessions_expired RENAME TO sessions_used;
