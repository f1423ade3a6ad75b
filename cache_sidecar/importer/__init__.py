"""Brings a shop's data in from files: reading and rejecting are the same for every noun, rules and SQL are its own."""
