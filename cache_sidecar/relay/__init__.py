"""The relay: a separate process, one per region, that publishes what writers could not."""
