"""The rules, each in a module of its own; all of them are pure."""
