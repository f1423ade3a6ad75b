"""The tiers: memory (L1), Redis (L2), PostgreSQL (store). They move bytes with a version and know neither gRPC nor protobuf."""
