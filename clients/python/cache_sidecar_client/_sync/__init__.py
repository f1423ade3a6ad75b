"""The client for threads. All of it but `channel.py` and `join.py` is generated from `_async`, by `make proto`."""
