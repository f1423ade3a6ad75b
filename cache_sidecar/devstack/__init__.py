"""Real servers from wheels, for `cache-sidecar dev` and the tests: nothing to install beside them."""
