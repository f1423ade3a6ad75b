"""Keeps caches from serving what is out of date: invalidations, failovers, relays that lag."""
