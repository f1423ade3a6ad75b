"""The tests."""

import os

# gRPC would run its fork handlers in every child that a test forks, while its threads run; these children exec at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
