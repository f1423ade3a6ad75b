"""Admission of reservations in front of PostgreSQL, and stock as callers and watchers see it."""
