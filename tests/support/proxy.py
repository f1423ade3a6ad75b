"""A TCP proxy in front of a real server that can be cut, stalled and slowed down."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class Proxy:
    """Forwards connections to host:port `target`; a context. All faults last until `heal`."""

    def __init__(
        self,
        target: str,
        *,
        port: int = 0,
        translate: Mapping[bytes, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Listens on `port` of 127.0.0.1; 0 is any free one. With `tls`, it speaks TLS with clients, for a server that cannot.

        `translate` maps bytes in replies to their replacements. Each piece of data is searched by itself, which is enough for
        short replies.
        """
        host, _, target_port = target.rpartition(":")
        self._target = host, int(target_port)
        self._port = port
        self.translate = translate or {}
        self._tls = tls
        self._delay = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._mutes_when = b""
        self.held = 0
        "Bytes of replies that are held back."
        self._listener: socket.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """The host:port to connect to; it never changes."""
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
        """The number of open connections."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def prepare(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called for a new connection, for what comes before anything is forwarded. Raises OSError to refuse it."""

    def cut(self) -> None:
        """Drops every connection and refuses new ones."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for writer in self._writers:
            writer.transport.abort()
        for connection in self._connections:
            connection.cancel()

    async def turn_to(self, target: str) -> None:
        """Drops every connection and forwards to another host:port from now on, like a DNS name that moves."""
        self.cut()
        host, _, target_port = target.rpartition(":")
        self._target = host, int(target_port)
        await self.heal()

    def stall(self) -> None:
        """Accepts connections and bytes and forwards nothing; `heal` forwards what was held back."""
        self._flowing.clear()

    def mute(self, *, once_asked: bytes = b"") -> None:
        """Forwards requests and holds back replies, from the first request on that contains the given bytes."""
        self._mutes_when = once_asked
        if not once_asked:
            self._answering.clear()

    def delay(self, seconds: float) -> None:
        """Delays each piece of data, in both directions."""
        self._delay = seconds

    async def heal(self) -> None:
        """Ends all faults."""
        self._delay = 0.0
        self._mutes_when = b""
        self._flowing.set()
        self._answering.set()
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        # Not asyncio's server: it leaves a connection open for ever that it has accepted when it is closed.
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=100)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has gone already
            accepted, _ = listener.accept()
            connection = asyncio.create_task(self._serve(accepted))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)
            # Nothing else closes it when it is cut before its task begins.
            connection.add_done_callback(lambda _: accepted.close())

    async def _serve(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        reader, writers = asyncio.StreamReader(), list[asyncio.StreamWriter]()
        # With a callback, it is a server's: in TLS, too.
        protocol = asyncio.StreamReaderProtocol(reader, lambda _, writer: writers.append(writer))
        # `cut` cancels this task; nothing awaits it.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls)
            (writer,) = writers
            self._writers.add(writer)
            try:
                await self._forward(reader, writer)
            finally:
                self._writers.discard(writer)
                writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        await self.prepare(reader, writer)
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer, answers=True))
        except* (OSError, RuntimeError):  # uvloop raises the latter for a connection that was cut meanwhile
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
        # One side has half-closed; the other may still reply.
        if writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()
