"""`POST /quit` on the loopback interface: how a Job's application tells a sidecar, which would run for ever, that it is done.

Clusters before Kubernetes 1.29 need it; later ones end a native sidecar by themselves.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cache_sidecar.config.settings import split_address
from cache_sidecar.core.errors import SettingsError

_SECONDS = 5.0
_ANSWERS = {
    200: b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nstopping\n",
    404: b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 11\r\n\r\nPOST /quit\n",
}


@contextlib.asynccontextmanager
async def listening(address: str, stop: asyncio.Event) -> AsyncIterator[None]:
    """Sets `stop` when somebody asks for it, for as long as the context lasts; does nothing without an address."""
    if not address:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_SECONDS):
                request = await reader.readline()
                quits = request.startswith(b"POST /quit HTTP/1.")
                while await reader.readline() not in {b"\r\n", b"\n", b""}:
                    pass
                writer.write(_ANSWERS[200 if quits else 404])
                await writer.drain()
                if quits:
                    stop.set()
        writer.close()

    host, port = split_address(address)
    try:
        server = await asyncio.start_server(answer, host, port, limit=4096)
    except OSError as error:
        raise SettingsError(f"quit_address: cannot listen on {address}: {error.strerror}") from None
    async with server:
        yield
