"""Serves the page of a fleet: on the loopback interface only, as it shows to everyone there what its credentials may read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus

from cache_sidecar.dashboard.fleet import Fleet
from cache_sidecar.dashboard.targets import Found
from cache_sidecar.metrics import web
from cache_sidecar.metrics.web import Stream
from cache_sidecar.page import documents, origins
from cache_sidecar.page.feed import Feed, Full
from cache_sidecar.server.http import Request
from cache_sidecar.terminal.access import Access


class Dashboard:
    """Answers what browsers ask; see `metrics.web.Pages`."""

    def __init__(self, fleet: Fleet) -> None:
        self.feed = Feed(fleet)

    async def answer(self, request: Request, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> bytes | Stream:
        """Returns a response, or what writes it."""
        path = request.target.partition("?")[0]
        if path not in {"/", "/events"}:
            return origins.error(HTTPStatus.NOT_FOUND, "GET / is the page\n")
        if request.method not in {"GET", "HEAD"}:
            return origins.error(HTTPStatus.METHOD_NOT_ALLOWED, f"GET {path}\n", {"Allow": "GET, HEAD"})
        if refusal := origins.refusal(request):
            return refusal
        if path == "/":
            return documents.respond(request, "fleet")
        try:
            self.feed.admit()
        except Full:
            return origins.error(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open: close one\n")
        return partial(self.feed.send, refusal=lambda: "", more={}, head=documents.SAFE)


@contextlib.asynccontextmanager
async def serving(address: str, found: Found, access: Access) -> AsyncIterator[str]:
    """Within the context, serves the page. The value is the host:port. Raises SettingsError if the address is in use."""
    fleet = Fleet(found, access)
    dashboard = Dashboard(fleet)
    async with web.serving(address, None, dashboard, setting="--listen") as served:
        try:
            yield served
        finally:
            await dashboard.feed.stop()
            await fleet.stop()
