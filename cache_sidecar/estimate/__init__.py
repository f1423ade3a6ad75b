"""`cache-sidecar estimate`: what caching would take and save, from a few figures of a shop."""
