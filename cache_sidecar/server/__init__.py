"""The gRPC server: listeners, and what every call passes through before a service sees it."""
