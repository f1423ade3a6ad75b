"""Handling of tiers that are slow, full or down."""
