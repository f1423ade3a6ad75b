"""The relay: a process of its own, one per region, that finishes what writers could not."""
