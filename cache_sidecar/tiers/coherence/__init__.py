"""Keeps caches from answering with what is out of date: invalidations, failovers, late relays."""
