"""Recommendations: what is learned from events, and lists computed from it."""
