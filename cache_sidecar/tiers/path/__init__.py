"""The path of a read and a write: L1, then Redis, then PostgreSQL."""
