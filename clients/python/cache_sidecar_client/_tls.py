"""The TLS files of a client."""

import ssl
from pathlib import Path

import grpc

from cache_sidecar_client._reread import Reread


def tls_files(ca: str, cert: str | None, key: str | None) -> Reread[grpc.ChannelCredentials]:
    """Returns the credentials of CAs, and of a client's certificate with its key: of files that are whole and belong together.

    Raises OSError for a file that cannot be read, ValueError for one that is not what it should be.
    """
    files = [Path(file) for file in (ca, cert, key) if file]
    ignored = "the changed TLS files are ignored, those from before stay in use"
    return Reread(files, lambda: _credentials(ca, cert, key), ignored=ignored)


def _credentials(ca: str, cert: str | None, key: str | None) -> grpc.ChannelCredentials:
    # gRPC takes anything, and fails when it connects. OpenSSL checks, and reads the files itself; of one that is replaced
    # between the two reads, the signature is another one at the next look.
    roots, chain, private = (Path(file).read_bytes() if file else None for file in (ca, cert, key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ValueError(f"{ca} has no whole certificates in PEM: {error.reason or error}") from None
    if cert:
        try:
            # Without a password, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(cert, key, password="")
        except ssl.SSLError as error:
            raise ValueError(f"{cert} and {key} are not a certificate and its key in PEM: {error.reason or error}") from None
    return grpc.ssl_channel_credentials(roots, private, chain)
