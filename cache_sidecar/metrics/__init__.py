"""Metrics in the format of Prometheus: which ones there are, where their values come from, and how they are served."""
