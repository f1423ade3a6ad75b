"""`GET /metrics`, for Prometheus, and whatever else a process serves at `web_address`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Protocol

from cache_sidecar.metrics.definitions import Metric
from cache_sidecar.metrics.exposition import OPENMETRICS, TEXT, Samples, accepts_openmetrics, texts
from cache_sidecar.server import http
from cache_sidecar.server.http import Request

# Seconds for a request and its response; and connections at the same time: more are closed at once.
_SECONDS = 5.0
_CONNECTIONS = 16
# Lines of metrics that are made without a pause: less than 0.3 ms.
_LINES = 200

Collect = Callable[[], Iterable[tuple[Metric, Samples]]]


Stream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Writes a response that does not end soon; it has no time limit, and takes no connection from others."""


class Pages(Protocol):
    """What is served besides the metrics."""

    async def answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | Stream:
        """Returns a response, or what writes it. The connection is closed afterwards. Raises ValueError for invalid HTTP."""
        ...


@contextlib.asynccontextmanager
async def serving(
    address: str, collect: Collect | None, pages: Pages | None = None, *, setting: str = "web_address"
) -> AsyncIterator[str]:
    """Within the context, serves metrics and pages; does nothing without an address. The value is the host:port.

    Raises SettingsError when the address is in use.
    """
    if not address:
        yield ""
        return
    async with http.listening(setting, address, _Endpoint(collect, pages).answer, limit=8192) as served:
        yield served


class _Endpoint:
    def __init__(self, collect: Collect | None, pages: Pages | None) -> None:
        self._collect = collect
        self._pages = pages
        self._connections = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the only request of a connection."""
        # A client that speaks no HTTP, or has gone, gets no answer.
        with contextlib.suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            stream = await self._answer(reader, writer)
            if stream is not None:
                await stream(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Stream | None:
        """Writes a response, or returns what does so for a long time."""
        self._connections += 1
        try:
            if self._connections > _CONNECTIONS:
                return None
            async with asyncio.timeout(_SECONDS):
                request = await http.read_request(reader)
                is_metrics = self._collect is not None and request.target.partition("?")[0] == "/metrics"
                if self._pages is not None and not is_metrics:
                    response = await self._pages.answer(request, reader, writer)
                else:
                    response = await self._metrics(request)
                if not isinstance(response, bytes):
                    return response
                writer.write(response)
                await writer.drain()
        finally:
            self._connections -= 1
        return None

    async def _metrics(self, request: Request) -> bytes:
        if request.target.partition("?")[0] != "/metrics":
            return http.response(HTTPStatus.NOT_FOUND, b"GET /metrics\n")
        if request.method not in {"GET", "HEAD"}:
            return http.response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET /metrics\n", {"Allow": "GET, HEAD"})
        openmetrics = accepts_openmetrics(",".join(request.headers["accept"]))
        body = (await self._text(openmetrics=openmetrics)).encode()
        full = http.response(HTTPStatus.OK, body, {"Content-Type": OPENMETRICS if openmetrics else TEXT})
        return full if request.method == "GET" else full[: -len(body)]

    async def _text(self, *, openmetrics: bool) -> str:
        """Returns the metrics. Calls get their turn after each `_LINES` lines, however many series there are."""
        parts, lines = list[str](), 0
        for part in texts(self._collect() if self._collect else (), openmetrics=openmetrics):
            parts.append(part)
            lines += part.count("\n")
            if lines >= _LINES:
                lines = 0
                await asyncio.sleep(0)
        return "".join(parts)
