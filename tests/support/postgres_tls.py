"""TLS in front of a PostgreSQL whose build has none, as the server itself would speak it."""

import asyncio
import ssl

from tests.support.proxy import Proxy

# The first message of a client that wants encryption, each with its length.
_GSS, _TLS = (bytes([0, 0, 0, 8, 4, 210, 22, code]) for code in (48, 47))


class PostgresTls(Proxy):
    """Accepts connections with TLS only, and forwards them without."""

    def __init__(self, target: str, tls: ssl.SSLContext) -> None:
        super().__init__(target)
        self._context = tls

    async def prepare(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Agrees on TLS. Raises ConnectionError for a client that does not ask for it."""
        while (wish := await reader.readexactly(8)) == _GSS:
            writer.write(b"N")
        if wish != _TLS:
            raise ConnectionRefusedError("no pg_hba.conf entry for a connection without encryption")
        writer.write(b"S")
        await writer.start_tls(self._context)
