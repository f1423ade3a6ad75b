"""What a page gets: server-sent events over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support import scrape
from tests.support.until import DEADLINE


class Refused(Exception):
    """There is no stream; the argument is the status line."""


class Events:
    """An open stream."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> tuple[str, Any]:
        """Returns the name and the data of the next event. Raises IncompleteReadError when the stream has ended."""
        text = (await asyncio.wait_for(self._reader.readuntil(b"\n\n"), DEADLINE)).decode()
        name, _, data = text.removeprefix("event: ").partition("\ndata: ")
        return name, json.loads(data)

    async def until(self, condition: Any) -> Any:
        """Returns the data of the first snapshot from now on for which the condition is true."""
        async with asyncio.timeout(DEADLINE):
            while True:
                name, data = await self.next()
                assert name == "snapshot", data
                if condition(data):
                    return data


@asynccontextmanager
async def stream(address: str, *headers: str, path: str = "/events") -> AsyncIterator[Events]:
    """Opens the stream of a page. Raises Refused."""
    host, _, port = address.rpartition(":")
    # A first event is longer than a line of asyncio's default.
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    try:
        writer.write(head(f"GET {path}", address, *headers))
        answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)).decode()
        if " 200 " not in answer.partition("\r\n")[0]:
            raise Refused(answer.partition("\r\n")[0], (await reader.read()).decode())
        yield Events(reader)
    finally:
        await scrape.closed(writer)


async def post(address: str, change: Any, *headers: str) -> tuple[str, str]:
    """Sends a change as a page does; returns the status line and the body."""
    body = change if isinstance(change, bytes) else json.dumps(change).encode()
    size = f"Content-Length: {len(body)}"
    kind = () if any(one.startswith("Content-Type") for one in headers) else ("Content-Type: application/json",)
    found, text = await scrape.fetch(address, head("POST /policy", address, *kind, size, *headers) + body)
    return found.partition("\r\n")[0], text


def head(request: str, address: str, *headers: str) -> bytes:
    """Returns the head of a request, with the Host header that a browser sends unless there is another one."""
    host = () if any(one.startswith("Host:") for one in headers) else (f"Host: {address}",)
    return "\r\n".join([f"{request} HTTP/1.1", *host, *headers, "", ""]).encode()


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"
