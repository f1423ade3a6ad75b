"""The gRPC server: listeners, and the layers that every call passes through before a service."""
