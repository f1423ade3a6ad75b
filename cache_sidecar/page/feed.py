"""Server-sent events: one snapshot a second for all who look, and none if nobody does."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

from cache_sidecar.core import telemetry
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.server import http

# Seconds between two snapshots.
EVERY = 1.0
# Browsers that may look at the same time.
MAX_READERS = 16
# Bytes that a reader may leave unread, some ten snapshots; then it is dropped.
MAX_UNREAD = 256 * 1024

Json = dict[str, Any]


class Source(Protocol):
    """What is shown."""

    def begin(self) -> None:
        """Prepares to be asked once a second: somebody looks."""
        ...

    def end(self) -> None:
        """Nobody looks any more."""
        ...

    async def whole(self) -> Json:
        """Returns all that a new reader needs."""
        ...

    async def news(self) -> Json:
        """Returns what has changed in the last second; to be called once a second."""
        ...


class Full(Exception):
    """Too many are looking already."""


class Feed:
    """The readers of one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._readers: dict[asyncio.StreamWriter, Callable[[], str]] = {}
        self._background = BackgroundTasks()
        self._waiting = 0
        self._ticking: asyncio.Task[None] | None = None

    @property
    def readers(self) -> int:
        """How many are looking."""
        return len(self._readers)

    async def stop(self) -> None:
        """Ends all streams."""
        for writer in list(self._readers):
            writer.close()
        await self._background.stop()

    def admit(self) -> None:
        """Raises Full if nobody else may look. To be called before `send`, with nothing awaited in between."""
        if len(self._readers) + self._waiting >= MAX_READERS:
            raise Full

    async def send(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        refusal: Callable[[], str],
        more: Json,
        head: dict[str, str],
    ) -> None:
        """Sends events until the client leaves, is too slow, or may not look any more.

        `refusal` returns why, or an empty string, and is asked before each event; `more` is added to the first event.
        """
        self._waiting += 1
        try:
            if self._ticking is None:
                self._source.begin()
                self._ticking = self._background.spawn(self._tick())
            first = await self._source.whole()
        finally:
            self._waiting -= 1
        writer.write(http.head(HTTPStatus.OK, {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", **head}))
        writer.write(_event("snapshot", first | more))
        self._readers[writer] = refusal
        try:
            # Clients have nothing to say: this returns when they leave, or when the stream was closed here.
            with contextlib.suppress(OSError):
                await reader.read(1)
        finally:
            self._readers.pop(writer, None)

    async def _tick(self) -> None:
        try:
            while self._readers or self._waiting:
                await asyncio.sleep(EVERY)
                try:
                    event = _event("snapshot", await self._source.news())
                except Exception as error:  # noqa: BLE001  # a defect must not end the stream for good
                    telemetry.log.error("the status page has no snapshot", exc_info=error)
                    event = b": none\n\n"
                for writer, refusal in list(self._readers.items()):
                    self._pass_on(event, writer, refusal)
        finally:
            self._ticking = None
            self._source.end()

    def _pass_on(self, event: bytes, writer: asyncio.StreamWriter, refusal: Callable[[], str]) -> None:
        if writer.transport.get_write_buffer_size() > MAX_UNREAD:
            # It would only grow: a browser that sleeps connects again when it wakes up.
            del self._readers[writer]
            writer.transport.abort()
        elif problem := refusal():
            del self._readers[writer]
            writer.write(_event("refused", {"message": problem}))
            writer.close()
        else:
            writer.write(event)


def _event(name: str, data: Json) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
