"""A dataset of the tests' own: its proto, its store and its specification, and nothing in the sidecar's code."""
