"""Real servers from wheels, for `cache-sidecar dev` and the tests. No other prerequisites."""
