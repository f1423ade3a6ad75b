"""The webhook's HTTP: reviews by TLS, and on another port, without, what Kubernetes and Prometheus ask."""

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
from cache_sidecar.injector.api import Object
from cache_sidecar.injector.metrics import Metrics
from cache_sidecar.injector.review import Answer, Context, answer
from cache_sidecar.injector.rotation import Served

# An object that etcd takes has at most 1.5 MiB; a review holds it once, with something around it.
MAX_BODY = 3 * 1024 * 1024
READ_SECONDS = 10.0


class Webhook:
    """Answers reviews at `/inject/namespace` and `/inject/pod`, by what the webhook's selector goes by."""

    def __init__(
        self, context: Callable[[], Context], metrics: Metrics, *, clock: Clock, tell: Callable[[Object], None]
    ) -> None:
        self._context = context
        self._metrics = metrics
        self._clock = clock
        self._tell = tell
        self.app = web.Application(client_max_size=MAX_BODY)
        self.app.router.add_post("/inject/namespace", self._by_namespace)
        self.app.router.add_post("/inject/pod", self._by_pod)

    async def _by_namespace(self, request: web.Request) -> web.Response:
        return await self._review(request, enabled=True)

    async def _by_pod(self, request: web.Request) -> web.Response:
        return await self._review(request, enabled=False)

    async def _review(self, request: web.Request, *, enabled: bool) -> web.Response:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
            found = self._answer(body, enabled=enabled)
        except InputError as error:
            return self._error(400, str(error))
        except web.HTTPRequestEntityTooLarge:
            return self._error(413, f"the body is larger than {MAX_BODY} bytes")
        except (ConnectionError, web.RequestPayloadError):
            return self._error(400, "the body broke off")
        except TimeoutError:
            return self._error(408, "the body did not come in time")
        self._metrics.admissions.labels(found.outcome, found.reason).inc()
        self._metrics.seconds.observe(time.perf_counter() - start)
        if found.event:
            self._tell(found.event)
        return web.Response(body=json.dumps(found.body).encode(), content_type="application/json")

    def _answer(self, body: bytes, *, enabled: bool) -> Answer:
        try:
            review = json.loads(body)
        except ValueError as error:
            raise InputError(f"the body is not JSON: {error}") from None
        except RecursionError:
            raise InputError("the body is nested too deeply") from None
        return answer(review, self._context()._replace(enabled=enabled), now=self._clock.now())

    def _error(self, status: int, problem: str) -> web.Response:
        self._metrics.admissions.labels("error", "").inc()
        telemetry.log.warning("review refused", status=status, problem=problem)
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

    async def _text(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class _OurFaults(logging.Filter):
    """Lets through what aiohttp logs of our own errors, with their traceback, but not that somebody sent what is no HTTP."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether it is to be logged."""
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger("cache_sidecar.injector.http")
_log.addFilter(_OurFaults())


async def listen(app: web.Application, address: str, served: Served | None = None) -> web.AppRunner:
    """Serves an application at `host:port`. Raises SettingsError when that is taken."""
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
