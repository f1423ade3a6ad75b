"""User events under load, while the sidecar, the relay and primaries of Redis are killed by turns: none lost, none doubled."""
