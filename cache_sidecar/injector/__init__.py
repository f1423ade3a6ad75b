"""Injects the sidecar into pods, as a webhook or from the command line; see README.md."""
