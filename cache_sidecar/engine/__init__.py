"""Hosts of the services. An engine has the shape of `grpc.aio.Server`."""
