"""A connection on which anything may be sent; what comes back is counted and dropped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.bench import frames

HELLO = frames.PREFACE + frames.settings({frames.ENABLE_PUSH: 0})


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.closed = asyncio.Event()
        "Set when the server has ended it."
        self.received = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """See Protocol."""
        self.closed.set()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        self.received += len(data)

    def pause_writing(self) -> None:
        """See Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See Protocol."""
        self._writable.set()

    async def send(self, data: bytes) -> bool:
        """Sends as fast as the server takes it; False when the server has ended the connection."""
        if not self.closed.is_set():
            self.transport.write(data)
            await asyncio.sleep(0)
            await self._writable.wait()
        return not self.closed.is_set()

    async def flood(self, piece: bytes, times: int) -> bool:
        """Sends a piece so often, or until the server has enough; returns whether it bore all of it."""
        for _ in range(times):
            if not await self.send(piece):
                return False
        return True


@contextlib.asynccontextmanager
async def clients(address: str, count: int, said: bytes = HELLO) -> AsyncIterator[list[Client]]:
    """Opens connections, and says the same on each; they are closed at the end."""
    host, _, port = address.rpartition(":")
    loop, opened = asyncio.get_running_loop(), list[Client]()

    async def connect() -> None:
        while len(opened) < count:
            opened.append(client := Client())
            await loop.create_connection(lambda: client, host, int(port))
            client.transport.write(said)

    try:
        await asyncio.gather(*(connect() for _ in range(min(count, 50))))
        yield opened
    finally:
        for client in opened:
            if hasattr(client, "transport"):
                client.transport.abort()
        await asyncio.gather(*(client.closed.wait() for client in opened if hasattr(client, "transport")))
