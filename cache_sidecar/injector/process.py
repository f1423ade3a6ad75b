"""The composition root of the injector: the webhook, its certificate, and background work."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.errors import SettingsError, SidecarError
from cache_sidecar.core.garbage_collection import short_pauses
from cache_sidecar.injector.api import Api
from cache_sidecar.injector.config import SERVICE_ACCOUNT, InjectorConfig, parse_version
from cache_sidecar.injector.events import Events
from cache_sidecar.injector.lease import Lease
from cache_sidecar.injector.metrics import Metrics
from cache_sidecar.injector.reconcile import Reconciler
from cache_sidecar.injector.review import Context
from cache_sidecar.injector.rotation import FileSource, OwnSource, Served, Source
from cache_sidecar.injector.server import Pages, Webhook, listen

# Seconds between two checks of the cluster's version, and before a retry.
VERSION_SECONDS = 60.0
RETRY_SECONDS = 2.0
# How long to wait for the API server at shutdown; without an answer, the lease expires by itself.
RELEASE_SECONDS = 2.0


class Injector:
    """Everything that `cache-sidecar injector` runs."""

    def __init__(self, config: InjectorConfig, api: Api, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._config = config
        self._api = api
        self._namespace = own_namespace(config)
        self._metrics = Metrics()
        self._served = Served(config.server.client_ca_file)
        self._source = self._certificates(clock)
        self._events = Events(api, self._metrics)
        self._version = parse_version(config.kubernetes_version) if config.kubernetes_version else None
        self._webhook = Webhook(self._context, self._metrics, clock=clock, emit=self._events.enqueue)
        self._pages = Pages(self._metrics, self._is_ready)
        self._lease = Lease(
            api,
            namespace=self._namespace,
            name=config.server.service,
            # Three intervals, so that one failed check does not lose the lease.
            seconds=max(15, int(config.reconciler.interval * 3)),
            clock=clock,
        )
        self._reconciler = Reconciler(
            config.reconciler,
            api,
            self._metrics,
            own_namespace=self._namespace,
            options=config.sidecar,
            emit=self._events.enqueue,
            lease=self._lease,
            clock=clock,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set. Starts even if the API server is down; becomes ready once there is a certificate."""
        pages = await listen(self._pages.app, self._config.server.web)
        try:
            webhook = await listen(self._webhook.app, self._config.server.listen, self._served)
            try:
                telemetry.log.info("injecting", address=self._config.server.listen, namespace=self._namespace)
                async with short_pauses():
                    await self._work(stop)
            finally:
                await webhook.cleanup()
        finally:
            await pages.cleanup()
        telemetry.log.info("stopped")

    async def _work(self, stop: asyncio.Event) -> None:
        works = [
            self._repeat("certificates", self._refresh_certificate, self._config.certificates.refresh),
            self._repeat("events", self._events.send, 0.0),
        ]
        if not self._config.kubernetes_version:
            works.append(self._repeat("version", self._refresh_version, VERSION_SECONDS))
        if self._config.reconciler.mode != "off":
            works.append(self._repeat("reconcile", self._reconciler.reconcile, self._config.reconciler.interval))
        self._metrics.collections.start()
        tasks = [asyncio.ensure_future(work) for work in works]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # only `stopped` returns normally; for the others, this raises the exception that ended them
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
            self._metrics.collections.stop()
            await self._give_up_lease()

    async def _give_up_lease(self) -> None:
        if self._config.reconciler.mode == "off":
            return
        with contextlib.suppress(SidecarError, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._lease.release()

    async def _repeat(self, name: str, work: Callable[[], Awaitable[None]], seconds: float) -> NoReturn:
        while True:
            try:
                await work()
            except SidecarError as error:
                self._metrics.failures[name] += 1
                telemetry.log.error("background work failed, retrying", work=name, problem=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await asyncio.sleep(seconds)

    async def _refresh_certificate(self) -> None:
        await self._served.refresh(self._source)
        self._metrics.certificate_expiry = self._served.expiry

    async def _refresh_version(self) -> None:
        reply = await self._api.get("/version")
        try:
            self._version = parse_version(f"{reply.get('major')}.{reply.get('minor')}")
        except ValueError as error:
            raise SettingsError(f"cannot read the cluster's version: {error}; set kubernetes_version") from None

    def _context(self) -> Context:
        if self._version is None:
            raise SettingsError("the cluster's version is not known yet")  # unreachable: requests arrive only once it is ready
        return Context(self._config, self._version, self._namespace, enabled=False)

    def _is_ready(self) -> bool:
        return self._served.expiry > 0 and self._version is not None

    def _certificates(self, clock: Clock) -> Source:
        if self._config.certificates.source == "files":
            return FileSource(self._config.certificates)
        return OwnSource(
            self._api,
            self._config.certificates,
            namespace=self._namespace,
            service=self._config.server.service,
            clock=clock,
        )


def own_namespace(config: InjectorConfig) -> str:
    """Returns the injector's namespace. Raises SettingsError if it is unknown."""
    if config.server.namespace:
        return config.server.namespace
    file = Path(SERVICE_ACCOUNT, "namespace")
    try:
        return file.read_text().strip()
    except OSError:
        raise SettingsError(
            f"server.namespace is not set, and {file} does not exist outside of a pod: set server.namespace"
        ) from None


async def run(config: InjectorConfig, stop: asyncio.Event) -> None:
    """Runs the injector until `stop` is set."""
    async with Api(config.api) as api:
        await Injector(config, api).run(stop)
