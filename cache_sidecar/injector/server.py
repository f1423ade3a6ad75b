"""The HTTP servers: reviews over TLS; health checks and metrics on another port, without TLS."""

import asyncio
import json
import logging
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from cache_sidecar.config.settings import split_address
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InputError, SettingsError
from cache_sidecar.injector import clients
from cache_sidecar.injector.api import Object
from cache_sidecar.injector.metrics import Metrics
from cache_sidecar.injector.review import Answer, Context, answer
from cache_sidecar.injector.rotation import Served
from cache_sidecar.metrics.exposition import OPENMETRICS, TEXT, accepts_openmetrics, render

# etcd limits objects to 1.5 MiB; a review contains one object and a little more.
MAX_BODY = 3 * 1024 * 1024
READ_SECONDS = 10.0


class Webhook:
    """Answers reviews at `/inject/namespace` and `/inject/pod`, named after the label that the webhook selects by."""

    def __init__(
        self, context: Callable[[], Context], metrics: Metrics, *, clock: Clock, emit: Callable[[Object], None]
    ) -> None:
        self._context = context
        self._metrics = metrics
        self._clock = clock
        self._emit = emit
        self.app = web.Application(client_max_size=MAX_BODY)
        self.app.router.add_post("/inject/namespace", self._by_namespace)
        self.app.router.add_post("/inject/pod", self._by_pod)

    async def _by_namespace(self, request: web.Request) -> web.Response:
        return await self._review(request, enabled=True)

    async def _by_pod(self, request: web.Request) -> web.Response:
        return await self._review(request, enabled=False)

    async def _review(self, request: web.Request, *, enabled: bool) -> web.Response:
        start = time.perf_counter()
        if problem := self._refusal(request):
            refused = self._error(403, problem)
            refused.force_close()  # so that a client that has renewed its certificate presents it
            return refused
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
            found = self._answer(body, enabled=enabled)
        except InputError as error:
            return self._error(400, str(error))
        except web.HTTPRequestEntityTooLarge:
            return self._error(413, f"the body is larger than {MAX_BODY} bytes")
        except (ConnectionError, web.RequestPayloadError):
            return self._error(400, "the body is incomplete")
        except TimeoutError:
            return self._error(408, "the body did not arrive in time")
        self._metrics.record_review(found.outcome, found.reason, time.perf_counter() - start)
        if found.event:
            self._emit(found.event)
        return web.Response(body=json.dumps(found.body).encode(), content_type="application/json")

    def _refusal(self, request: web.Request) -> str:
        """Returns why the client may not send reviews, an empty string if it may."""
        config = self._context().config.server
        if not config.client_ca_file:
            return ""
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        return clients.refusal(certificate, config.allowed_clients, now=self._clock.now())

    def _answer(self, body: bytes, *, enabled: bool) -> Answer:
        try:
            review = json.loads(body)
        except ValueError as error:
            raise InputError(f"the body is not JSON: {error}") from None
        except RecursionError:
            raise InputError("the body is nested too deeply") from None
        return answer(review, self._context()._replace(enabled=enabled), now=self._clock.now())

    def _error(self, status: int, problem: str) -> web.Response:
        self._metrics.admissions["error", ""] += 1
        telemetry.log.warning("review rejected", status=status, problem=problem)
        return web.Response(status=status, text=problem + "\n")


class Pages:
    """`/healthz`, `/readyz` and `/metrics`."""

    def __init__(self, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._is_ready = is_ready
        self.app = web.Application()
        self.app.router.add_get("/healthz", self._healthz)
        self.app.router.add_get("/readyz", self._readyz)
        self.app.router.add_get("/metrics", self._text)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.Response(status=200 if ready else 503, text="ok\n" if ready else "no certificate yet\n")

    async def _text(self, request: web.Request) -> web.Response:
        openmetrics = accepts_openmetrics(",".join(request.headers.getall("Accept", [])))
        body = render(self._metrics.collect(), openmetrics=openmetrics).encode()
        return web.Response(body=body, headers={"Content-Type": OPENMETRICS if openmetrics else TEXT})


class _OurFaults(logging.Filter):
    """Drops aiohttp's log records about invalid HTTP from clients, and keeps those about our own errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to log the record."""
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger("cache_sidecar.injector.http")
_log.addFilter(_OurFaults())


async def listen(app: web.Application, address: str, served: Served | None = None) -> web.AppRunner:
    """Serves an application at `host:port`. Raises SettingsError if the address is in use."""
    runner = web.AppRunner(app, access_log=None, logger=_log, keepalive_timeout=75.0)
    await runner.setup()
    host, port = split_address(address)
    context = served.context if served else None
    site = web.TCPSite(runner, host, port, ssl_context=context, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(f"cannot listen on {address}: {error.strerror or error}") from None
    return runner
