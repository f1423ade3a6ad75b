"""Imports data from files. Reading and rejecting are the same for every dataset; each has its own parsers and SQL."""
