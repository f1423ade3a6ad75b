"""As much of HTTP/1.1 as the small endpoints need: one request per connection, and hardly ever with a body.

The caller bounds the size of a line (the reader's `limit`) and the time; the number of headers is bounded here.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

from cache_sidecar.config.settings import split_address
from cache_sidecar.core.errors import SettingsError

_MAX_HEADERS = 100

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Answers the only request of a connection."""


@contextlib.asynccontextmanager
async def listening(setting: str, address: str, answer: Answer, *, limit: int) -> AsyncIterator[str]:
    """Within the context, answers connections to host:port `address`; `limit` is that of a line. The value is the host:port.

    Raises SettingsError, which names the setting, when the address is in use.
    """
    host, port = split_address(address)
    try:
        server = await asyncio.start_server(answer, host, port, limit=limit)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot listen on {address}: {error.strerror}") from None
    async with server:
        yield f"{address.rpartition(':')[0]}:{server.sockets[0].getsockname()[1]}"


class Request(NamedTuple):
    """The head of a request."""

    method: str
    target: str
    headers: Mapping[str, list[str]]
    "The values of each header by its name in lower case; of one that was not sent, an empty list."


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Reads a request. Raises ValueError if it is not HTTP, or its head is too large."""
    method, target, version = (await reader.readline()).decode("latin-1").split()
    if not version.startswith("HTTP/1."):
        raise ValueError("it is not HTTP/1")
    headers: dict[str, list[str]] = defaultdict(list)
    for _ in range(_MAX_HEADERS):
        line = await reader.readline()
        if line in {b"\r\n", b"\n", b""}:
            return Request(method, target, headers)
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()].append(value.strip())
    raise ValueError("it has too many headers")


async def read_body(reader: asyncio.StreamReader, request: Request, *, limit: int) -> bytes:
    """Reads the body of a request, of at most `limit` bytes. Raises ValueError for a larger one, or one of unknown size."""
    sizes = request.headers["content-length"]
    if len(sizes) != 1 or not sizes[0].isdecimal() or len(sizes[0]) > 9 or request.headers["transfer-encoding"]:
        raise ValueError("it needs one Content-Length, and no Transfer-Encoding")
    if int(sizes[0]) > limit:
        raise ValueError(f"its body is larger than {limit} bytes")
    return await reader.readexactly(int(sizes[0]))


def response(status: HTTPStatus, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Returns a response after which the connection is closed."""
    return head(status, {"Content-Length": str(len(body)), **headers}) + body


def head(status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
    """Returns the head of a response that ends when the connection is closed."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n{''.join(lines)}\r\n".encode()
