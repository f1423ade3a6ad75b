"""Calls made of raw bytes over raw HTTP/2, which no well-behaved client sends.

A reply is whatever comes back: headers, trailers, messages, or a reset. Flow control is respected, since the server's own
limits are under test; other rules need not be.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote_to_bytes

from tests.bench import frames, hpack

DEADLINE = 30.0
_END_OF_CALL = frames.END_STREAM
_WINDOW = 2**30


@dataclass
class RawReply:
    """The reply to one call."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    "Headers and trailers together."
    header_bytes: int = 0
    "Names and values of the last block, 32 bytes each added, as SETTINGS_MAX_HEADER_LIST_SIZE counts them."
    body: bytes = b""
    reset: int | None = None
    "The code of RST_STREAM or GOAWAY, or -1 when the connection was closed."
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> int | None:
        """The grpc-status, or None when there was none."""
        value = self.headers.get(b"grpc-status")
        return None if value is None else int(value)

    @property
    def message(self) -> str:
        """The grpc-message, unescaped."""
        return unquote_to_bytes(self.headers.get(b"grpc-message", b"")).decode()


class RawConnection:
    """One HTTP/2 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = hpack.Decoder()
        self._next_stream = 1
        self._replies: dict[int, RawReply] = {}
        self._initial_window = frames.DEFAULT_WINDOW
        self._window = frames.DEFAULT_WINDOW
        self._stream_windows: dict[int, int] = {}
        self._more_window = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._authority: bytes | None = None
        "The newest entry of the dynamic table."
        self.told_to_go = False
        "Whether a GOAWAY was received."
        self.closed = asyncio.Event()
        "Set when the server has closed it."

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, address: str, *, stream_window: int = _WINDOW, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Self]:
        """Connects to host:port or unix:path; `stream_window` is how much the server may send unasked on a stream."""
        if address.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=tls, server_hostname="localhost" if tls else None
            )
        raw = cls(reader, writer)
        raw._send(frames.PREFACE)
        raw._send(frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: stream_window}))
        raw._send(frames.window_update(_WINDOW))
        raw._task = asyncio.get_running_loop().create_task(raw._read())
        try:
            yield raw
        finally:
            raw._task.cancel()
            await asyncio.gather(raw._task, return_exceptions=True)
            writer.close()
            if tls:
                writer.transport.abort()  # or it waits for C-core, which does not answer the end of TLS
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def tls(self) -> ssl.SSLObject:
        """The TLS connection."""
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    def abort(self) -> None:
        """Resets the connection."""
        self._writer.transport.abort()

    @property
    def last_stream(self) -> int:
        """The stream of the newest call."""
        return self._next_stream - 2

    async def call(self, path: str, body: bytes, **options: object) -> RawReply:
        """Sends a whole call with a body of framed messages, and returns its reply."""
        stream = await self.begin(path, **options)  # type: ignore[arg-type]  # passed on
        await self.send(stream, body, end=True)
        return await self.reply(stream)

    async def begin(
        self,
        path: str,
        *,
        encoding: str = "",
        metadata: Iterable[tuple[bytes, bytes]] = (),
        authority: bytes | None = None,
        is_coded: bool = False,
        end: bool = False,
    ) -> int:
        """Sends the headers of a call; returns its stream.

        A given `:authority` goes into the table of headers, in Huffman's code if `is_coded`, and is sent from there from then on.
        """
        stream = self._next_stream
        self._next_stream += 2
        extra = [*([(b"grpc-encoding", encoding.encode())] if encoding else []), *metadata]
        self._replies[stream] = RawReply()
        self._stream_windows[stream] = self._initial_window
        told = b"" if authority is None else self._told(authority, is_coded=is_coded)
        block = header_block(path, extra, told=told)
        size, flags = frames.DEFAULT_FRAME_BYTES, frames.END_STREAM if end else 0
        pieces = [block[start : start + size] for start in range(0, len(block), size)]
        for number, piece in enumerate(pieces):
            kind = frames.CONTINUATION if number else frames.HEADERS
            last = frames.END_HEADERS if piece is pieces[-1] else 0
            self._send(frames.frame(kind, last | (0 if number else flags), stream, piece))
        return stream

    def _told(self, authority: bytes, *, is_coded: bool) -> bytes:
        """Returns a header field for `:authority`: of the newest entry of the table, or one that becomes that."""
        if authority == self._authority:
            return hpack.indexed(len(hpack.STATIC) + 1)
        self._authority = authority
        return b"\x41" + (hpack.coded(authority) if is_coded else encoded_text(authority))

    async def burst(
        self, path: str, messages: Iterable[bytes], *, metadata: Iterable[tuple[bytes, bytes]] = ()
    ) -> list[RawReply]:
        """Sends many small calls in one write, so that all arrive at the same moment, each headers with their body."""
        whole, streams, block = b"", [], header_block(path, list(metadata))
        for text in messages:
            stream = self._next_stream
            self._next_stream += 2
            body = message(text)
            self._window -= len(body)
            self._replies[stream] = RawReply()
            whole += frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
            whole += frames.frame(frames.DATA, frames.END_STREAM, stream, body)
            streams.append(stream)
        assert self._window >= 0, "more than the server takes at once"
        self._send(whole)
        return [await self.reply(stream) for stream in streams]

    def give_up(self, path: str, count: int) -> None:
        """Starts and resets many calls in one write, as if their callers had left before they were read."""
        whole = b""
        for _ in range(count):
            stream = self._next_stream
            self._next_stream += 2
            self._replies[stream] = RawReply()
            whole += frames.frame(frames.HEADERS, frames.END_HEADERS, stream, header_block(path))
            whole += frames.frame(frames.RST_STREAM, 0, stream, (8).to_bytes(4))
        self._send(whole)

    async def send(self, stream: int, body: bytes, *, end: bool = False) -> None:
        """Sends bytes as DATA frames, as fast as the server's window allows; stops when the call has ended."""
        reply, view = self._replies[stream], memoryview(body)
        while view and not reply.ended.is_set():
            size = min(len(view), self._window, self._stream_windows[stream], frames.DEFAULT_FRAME_BYTES)
            if size <= 0:
                self._more_window.clear()
                await asyncio.wait_for(self._more_window.wait(), DEADLINE)
                continue
            self._window -= size
            self._stream_windows[stream] -= size
            last = end and size == len(view)
            self._send(frames.frame(frames.DATA, frames.END_STREAM if last else 0, stream, bytes(view[:size])))
            await self._writer.drain()
            view = view[size:]
        if end and not body:
            self._send(frames.frame(frames.DATA, frames.END_STREAM, stream, b""))

    async def reply(self, stream: int) -> RawReply:
        """Returns the reply to a call once it is complete."""
        reply = self._replies[stream]
        await asyncio.wait_for(reply.ended.wait(), DEADLINE)
        return reply

    def received(self, stream: int) -> RawReply:
        """Returns the reply received so far."""
        return self._replies[stream]

    def cancel(self, stream: int) -> None:
        """Resets a call."""
        self._send(frames.frame(frames.RST_STREAM, 0, stream, (8).to_bytes(4)))

    def allow(self, stream: int, size: int) -> None:
        """Lets the server send that many more bytes on a stream."""
        self._send(frames.frame(frames.WINDOW_UPDATE, 0, stream, size.to_bytes(4)))

    def _send(self, data: bytes) -> None:
        self._writer.write(data)

    async def _read(self) -> None:
        try:
            while True:
                high, low, kind, flags, stream = frames.HEADER.unpack(await self._reader.readexactly(frames.HEADER_BYTES))
                self._take(kind, flags, stream, await self._reader.readexactly(high << 8 | low))
        except (OSError, EOFError):
            self.closed.set()
            self._end_all(-1)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        reply = self._replies.get(stream, RawReply())
        self.told_to_go |= kind == frames.GOAWAY
        if kind == frames.HEADERS:
            headers = self._decoder.decode(payload)
            reply.headers |= dict(headers)
            reply.header_bytes = sum(len(name) + len(value) + 32 for name, value in headers)
        elif kind == frames.DATA:
            reply.body += payload
            self._send(frames.window_update(max(1, len(payload))))
        elif kind == frames.RST_STREAM:
            reply.reset = frames.word(payload)
            reply.ended.set()
        elif kind == frames.GOAWAY and frames.word(payload, 4):
            self._end_all(frames.word(payload, 4))
        else:
            self._control(kind, flags, stream, payload)
        if kind in (frames.HEADERS, frames.DATA) and flags & _END_OF_CALL:
            reply.ended.set()

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.SETTINGS and not flags & frames.ACK:
            old, self._initial_window = (
                self._initial_window,
                frames.read_settings(payload).get(frames.INITIAL_WINDOW_SIZE, self._initial_window),
            )
            for open_stream in self._stream_windows:
                self._stream_windows[open_stream] += self._initial_window - old
            self._send(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        elif kind == frames.PING and not flags & frames.ACK:
            self._send(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE and stream:
            self._stream_windows[stream] += frames.word(payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window += frames.word(payload)
        self._more_window.set()

    def _end_all(self, code: int) -> None:
        for reply in self._replies.values():
            if not reply.ended.is_set():
                reply.reset = code
                reply.ended.set()
        self._more_window.set()


def message(payload: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """Returns a gRPC message as it is in DATA frames; `length` may lie."""
    return frames.MESSAGE.pack(compressed, len(payload) if length is None else length) + payload


def header_block(path: str, extra: Iterable[tuple[bytes, bytes]] = (), *, told: bytes = b"") -> bytes:
    """Returns the header block of a call; `told` is the field for `:authority`."""
    authority = told or _literal(b":authority", b"localhost")
    pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode())]
    headers = [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *extra]
    return b"".join([*(_literal(*header) for header in pseudo), authority, *(_literal(*header) for header in headers)])


def _literal(name: bytes, value: bytes) -> bytes:
    """Returns a header that is not added to the dynamic table."""
    return b"\x00" + encoded_text(name) + encoded_text(value)


def encoded_text(text: bytes) -> bytes:
    return hpack.string(text)
