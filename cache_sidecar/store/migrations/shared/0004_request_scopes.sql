-- A request_id is unique within the scope of its request only: the user, session or reservation that it is about. So an id that
-- somebody else used, by chance or on purpose, neither refuses a request nor answers it.
ALTER TABLE cache_sidecar.requests ADD COLUMN scope text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE cache_sidecar.requests ALTER COLUMN scope DROP DEFAULT;
ALTER TABLE cache_sidecar.requests DROP CONSTRAINT requests_pkey;
ALTER TABLE cache_sidecar.requests ADD PRIMARY KEY (request_id, scope);
