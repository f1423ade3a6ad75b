"""TLS of the sidecar as a client of a gRPC server."""

import grpc

from cache_sidecar.core.watched_files import read_file


def client_credentials(ca: str, cert: str, key: str) -> grpc.ChannelCredentials:
    """Returns the credentials in these files, empty for none: without `ca`, the system's authorities are trusted.

    Raises OSError if one of them cannot be read, also for a key that other users can read.
    """
    authorities, chain = (read_file(file) if file else None for file in (ca, cert))
    return grpc.ssl_channel_credentials(authorities, read_file(key, is_secret=True) if key else None, chain)
