"""A TCP proxy in front of a real server, which can be cut, stalled and slowed down."""

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class Proxy:
    """Forwards connections to host:port `target`; a context. All faults last until `heal`."""

    def __init__(self, target: str, *, port: int = 0, translate: Mapping[bytes, bytes] | None = None) -> None:
        """Listens on `port` of 127.0.0.1; 0 is any free one.

        `translate` says what to write in answers in the place of what. Looked for in each piece of data as it comes: for
        short answers.
        """
        host, _, target_port = target.rpartition(":")
        self._target = host, int(target_port)
        self._port = port
        self.translate = translate or {}
        self._delay = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._mutes_when = b""
        self.held = 0
        "Bytes of answers that were held back."
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def address(self) -> str:
        """The host:port to connect to; the same for the proxy's whole life."""
        return f"127.0.0.1:{self._port}"

    @property
    def target(self) -> str:
        """The host:port that it forwards to."""
        return f"{self._target[0]}:{self._target[1]}"

    @property
    def port(self) -> int:
        """The port of that."""
        return self._port

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handlers = list(self._connections)
        self.cut()
        await asyncio.gather(*handlers, return_exceptions=True)

    def cut(self) -> None:
        """Drops every connection and refuses new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for handler, writer in self._connections.items():
            writer.transport.abort()
            handler.cancel()

    async def turn_to(self, target: str) -> None:
        """Drops every connection, and forwards to another host:port from now on, as an address that moves does."""
        self.cut()
        host, _, target_port = target.rpartition(":")
        self._target = host, int(target_port)
        await self.heal()

    def stall(self) -> None:
        """Accepts connections and bytes, and forwards nothing; what was held back is forwarded by `heal`."""
        self._flowing.clear()

    def mute(self, *, once_asked: bytes = b"") -> None:
        """Forwards what is asked, and holds back what the target answers: from the first question on that has some bytes."""
        self._mutes_when = once_asked
        if not once_asked:
            self._answering.clear()

    def delay(self, seconds: float) -> None:
        """Forwards each piece of data, in either direction, that much later."""
        self._delay = seconds

    async def heal(self) -> None:
        """Works as on the first day."""
        self._delay = 0.0
        self._mutes_when = b""
        self._flowing.set()
        self._answering.set()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            # It was accepted when everything was cut, and not known yet.
            writer.transport.abort()
            return
        handler = asyncio.current_task()
        assert handler is not None
        self._connections[handler] = writer
        try:
            # CancelledError is how `cut` ends this; nobody waits for a connection's task.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            del self._connections[handler]
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer, answers=True))
        except* (OSError, RuntimeError):  # the latter is uvloop's word for a connection that was cut meanwhile
            pass
        finally:
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(_CHUNK):
            await asyncio.sleep(self._delay)
            await self._flowing.wait()
            if answers and not self._answering.is_set():
                self.held += len(data)
                await self._answering.wait()
            if answers:
                for told, meant in self.translate.items():
                    data = data.replace(told, meant)
            elif self._mutes_when and self._mutes_when in data:
                self._answering.clear()
            writer.write(data)
            await writer.drain()
        # One side said that it has no more to say; the other may still answer.
        with contextlib.suppress(OSError):
            writer.write_eof()
