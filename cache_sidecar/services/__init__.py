"""One file per service: request -> dataset -> reply. They name no TTL, no SQL and no Redis, and don't know each other."""
