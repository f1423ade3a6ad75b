"""The tests."""

import os

# gRPC would run handlers of its own in every child that a test forks, while its threads are at work; ours exec at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
