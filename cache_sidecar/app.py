"""The composition root: the one place that builds and wires, and knows in which order things start and stop.

What differs between datasets is specified in `datasets.py`. Here each of them gets its tiers, its service and its listeners.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from cache_sidecar import __version__, datasets
from cache_sidecar.config.live_policy import LivePolicy, describe_changes
from cache_sidecar.config.policy import DatasetPolicy, Policy
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies, Failing
from cache_sidecar.core.dependency_checks import Checks
from cache_sidecar.core.errors import Tier
from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.core.recent_events import RecentEvents
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.watched_files import LOOK_EVERY
from cache_sidecar.datasets import DatasetSpec, Parts, Service
from cache_sidecar.metrics import certificates, web
from cache_sidecar.metrics.certificates import Certificates
from cache_sidecar.metrics.sidecar import SidecarMetrics
from cache_sidecar.page.endpoint import Page
from cache_sidecar.page.snapshot import Snapshots
from cache_sidecar.server import status
from cache_sidecar.server.auth import Access, Caller, Need
from cache_sidecar.server.engines import selection
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Middleware
from cache_sidecar.server.server import Server
from cache_sidecar.server.tls import Tls
from cache_sidecar.services import event_copy, event_writer
from cache_sidecar.services.admin import AdminService
from cache_sidecar.services.event_copy import EventCopyLag
from cache_sidecar.services.event_writer import EventWriter
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.services.sidecar_stats import SidecarFacts
from cache_sidecar.services.storefront import StorefrontService
from cache_sidecar.services.user_event import UserEventService
from cache_sidecar.store.check import DatabaseCheck
from cache_sidecar.store.database import Database
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.rights import SIDECAR
from cache_sidecar.store.user_event import UserEventStore
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.listeners import InvalidationListeners
from cache_sidecar.tiers.coherence.quarantine import Quarantine, QuarantinedL2
from cache_sidecar.tiers.coherence.region import Region
from cache_sidecar.tiers.coherence.subscriber import INVALIDATIONS, UNHEARD, InvalidationSubscriber
from cache_sidecar.tiers.coherence.unpublished import UnpublishedChanges
from cache_sidecar.tiers.memory import pressure
from cache_sidecar.tiers.memory.clock import NO_L1, ClockL1
from cache_sidecar.tiers.memory.pressure import MemoryPressure
from cache_sidecar.tiers.memory.reuse import Reuse, SampledReuse
from cache_sidecar.tiers.path import inspector, reuse_watch
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.inspector import Inspector
from cache_sidecar.tiers.path.reuse_watch import ReuseWatch, Room
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import L1
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.event_streams import EventStreams
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from cache_sidecar.v1 import admin_service_pb2_grpc, storefront_service_pb2_grpc, user_event_service_pb2_grpc

if TYPE_CHECKING:
    from cache_sidecar.core.span_export import OtelTracer

# Pieces of work that run in Redis at the same time, and that may wait; each is a whole batch.
L2_RUNNING, L2_WAITING = 64, 2_000
# Pieces of work that may wait for PostgreSQL, per connection.
STORE_WAITING = 64
# Seconds between two looks at the hits that the native engine has traced.
TAKE_HITS_EVERY = 0.25
# The counts of spans without traces.
NO_SPANS = {"exported": 0, "failed": 0, "dropped": 0}
# What callers see while PostgreSQL does not answer.
STORE_AWAY = "only cached data is served, and writes fail"


class Store(NamedTuple):
    """What belongs to one distinct database."""

    database: Database
    guard: Guard
    writer: Writer
    changes: Changes
    check: DatabaseCheck


class _Served(NamedTuple):
    """A dataset, with what was built for it."""

    spec: DatasetSpec
    dataset: Dataset
    service: Service
    unpublished: UnpublishedChanges
    "Stands between coherence and the listeners of the dataset."
    inspector: Inspector | None
    reuse_watch: ReuseWatch


class App:
    """One sidecar."""

    web_address = ""
    "host:port of the status page and the metrics, once they are served."

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        specs: Sequence[DatasetSpec] = datasets.ALL,
        default_policy: Policy | None = None,
    ) -> None:
        """`default_policy` is the built-in policy unless given. Raises SettingsError."""
        self._settings = settings
        self._engine = selection.select(settings.engine, listen_socket=settings.listen_socket or settings.probe_socket)
        self._clock = clock or SystemClock()
        self._created = self._clock.now()
        self._bound = Bound(settings.max_message_bytes)
        self._policy = LivePolicy(settings.policy_file, clock=self._clock, default=default_policy)
        datasets.check_policy(specs, self._policy)
        self.dependencies = Dependencies(clock=self._clock)
        self._stores = {dsn: self._store(dsn, roles) for dsn, roles in settings.databases().items()}

        # Redis, and which of its replies count: one quarantine per database, as its relay writes the watermarks.
        self._connection = RedisClient(settings, dependencies=self.dependencies)
        self._names = KeyNames(settings.namespace)
        self._macs = Macs.of(settings)
        self._l2 = RedisL2(self._connection, self._names, macs=self._macs)
        # Beyond the maximum of connections commands fail at once; two are left for work that is not guarded.
        running = max(1, min(L2_RUNNING, settings.redis_max_connections - 2))
        # Twice the time of a command: a node that hangs must not cost what the others answered. Each has a breaker of its own.
        self._l2_guard = Guard(Tier.L2, timeout=2 * settings.redis_timeout, max_running=running, max_waiting=L2_WAITING)
        self._freshness_lease = FreshnessLease()
        roles = dict.fromkeys(spec.role for spec in specs)
        self._quarantines = {role: self._quarantine() for role in roles}
        is_entry = {spec.name: spec.is_entry for spec in specs}
        self._l2s = {
            role: QuarantinedL2(self._connection, self._names, quarantine, macs=self._macs, is_entry=is_entry)
            for role, quarantine in self._quarantines.items()
        }

        # The server.
        self._tracer = _create_tracer(settings, self.dependencies)
        self._tls, self._access = Tls.of(settings), Access.of(settings, clock=self._clock, dependencies=self.dependencies)
        stack = Middleware(
            max_calls=settings.max_concurrent_calls,
            max_calls_each=settings.max_dataset_calls,
            max_streams=settings.max_streams,
            max_streams_each=settings.max_connection_streams,
            max_reply=settings.max_message_bytes,
            access=self._access,
            tracer=self._tracer,
        )
        self._host = selection.create(self._engine, settings, self._clock)
        self._host.limit_access(self._access)
        self.server = Server(self._host, stack, settings, tls=self._tls)

        self._events = self._serve_events()
        self._oversells: Counter[str] = Counter()

        # The datasets.
        self._pressure = MemoryPressure(max_bytes=settings.l1_max_bytes, follows_limit=not settings.is_l1_set)
        self._served: dict[str, _Served] = {}
        self._datasets: dict[str, Dataset] = {}
        for spec in specs:
            self._served[spec.name] = served = self._serve(spec, sum(one.memory for one in specs))
            self._datasets[spec.name] = served.dataset
        self._storefront = self._serve_pages()
        self._policy.follow(lambda name, old: self._datasets[name].policy_changed(old))
        self._policy.follow(lambda _name, _old: self._host.apply_policies())
        by_role = {role: [one for one in self._served.values() if one.spec.role == role] for role in roles}
        self._region = Region(
            RedisWatermarks(self._connection, self._names, macs=self._macs),
            {role: [one.dataset for one in members] for role, members in by_role.items()},
            quarantines=self._quarantines,
            waiting={role: [one.unpublished for one in members] for role, members in by_role.items()},
            clock=self._clock,
            dependencies=self.dependencies,
        )
        self.coherence = InvalidationSubscriber(
            self._l2,
            self._connection,
            self._names,
            timeout=settings.redis_timeout,
            freshness_lease=self._freshness_lease,
            followers={name: served.unpublished for name, served in self._served.items()},
            quarantines=list(self._quarantines.values()),
            on_message=self._wake,
        )

        self._event_copy = EventCopyLag(
            UserEventStore(self.store("analytics").database), lambda: self.dependencies.of("mongodb")
        )

        # What operators see.
        self._checks = Checks(self.dependencies, [self._l2.check, *(store.check.run for store in self._stores.values())])
        self._collections = Collections()
        inspections = {name: served.inspector.counts for name, served in self._served.items() if served.inspector is not None}
        admin = AdminService(
            self._datasets,
            self._policy,
            inspections,
            self.failing_dependencies,
            self._collections,
            keys={spec.name: spec.keys for spec in specs if spec.keys is not None},
            private={spec.name for spec in specs if spec.is_private},
            events=lambda: self._events.counts,
            sidecar=self._describe,
            log_level=telemetry.own_level,
            clock=self._clock,
        )
        self.server.add(
            "cache_sidecar.v1.AdminService",
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
            admin,
            priority=Priority.VITAL,
            need=Need.ADMIN_CHANGE,
            needs=dict.fromkeys(["GetStats", "InspectKey", "GetPolicy"], Need.ADMIN_READ),
            describe=admin.describe,
        )
        self._certificates = Certificates(settings, certificates.SIDECAR)
        self._metrics = SidecarMetrics(
            engine_name=self._engine.name,
            engine=self._host,
            stack=stack,
            datasets=self._datasets,
            inspections=inspections,
            events=lambda: self._events.counts,
            copy_lag=lambda: self._event_copy.seconds,
            l1_bounds=self._pressure.bounds,
            oversells=self._oversells,
            redis=self._connection.cluster,
            l2_guard=self._l2_guard,
            subscriber=self.coherence,
            region=self._region,
            databases={role: (self.store(role).database.pool, self.store(role).guard) for role in ROLES},
            dependencies=self.dependencies,
            failing=self.failing_dependencies,
            policy=self._policy,
            collections=self._collections,
            certificates=self._certificates,
            spans=lambda: self._tracer.counts() if self._tracer is not None else NO_SPANS,
        )
        self._page = self._make_page(stack)
        self._running = AsyncExitStack()

    def store(self, role: str) -> Store:
        """Returns the database of a role."""
        return self._stores[self._settings.database(role)]

    def failing_dependencies(self) -> list[Failing]:
        """Returns the dependencies that are failing now, as seen by calls, checks and background tasks."""
        found = self.dependencies.failing()
        if not self.coherence.is_trusted() and not any(one.what == INVALIDATIONS for one in found):
            # Nothing has failed: the subscriptions are being made, or the last heartbeat is late.
            found.append(Failing(INVALIDATIONS, "", UNHEARD, "not received yet", self._clock.now()))
        return found

    def _describe(self) -> SidecarFacts:
        return SidecarFacts(
            version=__version__,
            engine=self._engine.name,
            uptime=self._clock.now() - self._created,
            l1_max_bytes=sum(self._pressure.bounds.values()),
            partitions_fresh=self.coherence.fresh_partitions(),
            invalidation_delay=self.coherence.delay(),
            relay_lags=self._region.lags(),
            log_level=telemetry.own_level,
        )

    async def start(self) -> None:
        """Starts serving. Redis and PostgreSQL may be down: what needs them recovers when they come up. Raises SettingsError.

        It stops in reverse order, once callers are gone: first what works for them, then the connections.
        """
        running = self._running
        if self._tracer is not None:
            running.push_async_callback(self._tracer.close)
        # Before the rest, as it may fail: then neither Redis nor PostgreSQL has been contacted, or logged about.
        self.server.bind()
        serving = web.serving(self._settings.web_address, self._metrics.collect, self._page)
        self.web_address = await running.enter_async_context(serving)
        running.push_async_callback(self._page.feed.stop)
        running.callback(telemetry.log.info, "stopped")
        self._collections.start()
        running.callback(self._collections.stop)
        for store in self._stores.values():
            await store.database.open()
            running.push_async_callback(store.database.close)
        running.push_async_callback(self._connection.close)
        self.coherence.start()
        running.push_async_callback(self.coherence.stop)
        for served in self._served.values():
            running.push_async_callback(served.dataset.close)
        for served in self._served.values():
            if served.service.start is not None:
                served.service.start()
            for close in reversed(served.service.close):
                running.push_async_callback(close)
        for store in self._stores.values():
            running.push_async_callback(store.writer.close)
        running.push_async_callback(self._storefront.close)
        self._start_background(running)
        self._policy.start()
        running.push_async_callback(self._policy.stop)
        await self.server.start()
        telemetry.log.info(
            "memory for cached entries", l1_max_bytes=self._settings.l1_max_bytes, because=self._settings.l1_reason
        )
        telemetry.log.info(
            "serving",
            address=self.server.address,
            socket=self._settings.listen_socket,
            engine=self._engine.name,
            because=self._engine.reason,
        )

    async def stop(self) -> None:
        """Drains, then stops what was started. Must be called after a failed `start`, too."""
        if self._tracer is not None:
            self._tracer.stop_at = time.monotonic() + self._settings.drain_seconds
        await self.server.drain()
        await self._running.aclose()

    def _make_page(self, stack: Middleware) -> Page:
        recent = RecentEvents(self._clock)
        self._follow_events(recent, stack)
        snapshots = Snapshots(
            parts=self._metrics,
            events=recent,
            uptime=lambda: self._clock.now() - self._created,
            address=lambda: self.server.address or self._settings.listen_socket,
        )
        return Page(snapshots, stack, self._access, self._host)

    def _follow_events(self, recent: RecentEvents, stack: Middleware) -> None:
        """Remembers what people on call ask for; the log has the same, and more."""

        def policy_changed(name: str, old: DatasetPolicy) -> None:
            for line in describe_changes(name, old, self._policy[name]):
                recent.add(f"policy {line}")

        def on_call(method: str, arguments: Mapping[str, object], caller: Caller) -> None:
            _, _, name = method.rpartition("/")
            if name == "Invalidate":
                what = "all" if arguments.get("all") else f"{arguments.get('ids')} IDs"
                recent.add(f"invalidated {what} of {arguments.get('dataset')}, by {caller.name or caller.peer}")
            elif name == "UpdatePolicy":
                recent.add(f"the policy of {arguments.get('dataset')} was updated by {caller.name or caller.peer}")

        def dependency_changed(level: int, text: str) -> None:
            recent.add(text, level="warning" if level >= logging.WARNING else "info")

        recent.add(f"started, version {__version__}")
        self._policy.follow(policy_changed)
        stack.audit.follow(on_call)
        self.dependencies.follow(dependency_changed)

    def _start_background(self, running: AsyncExitStack) -> None:
        background = BackgroundTasks()
        running.push_async_callback(background.stop)
        background.spawn(self._region.run())
        background.spawn(self._checks.run())
        background.poll(event_writer.INSPECT_EVERY, self._events.inspect)
        background.poll(event_copy.LOOK_EVERY, self._event_copy.look, delay=event_copy.LOOK_EVERY)
        running.push_async_callback(self._events.close)
        for served in self._served.values():
            if served.inspector is not None:
                background.poll(inspector.EVERY, served.inspector.step)
            background.poll(reuse_watch.EVERY, served.reuse_watch.look)
        background.poll(pressure.EVERY, self._pressure.look)
        background.poll(certificates.EVERY, self._certificates.look)
        if self._tls is not None:
            background.poll(LOOK_EVERY, self._tls.look, delay=LOOK_EVERY)
        background.poll(LOOK_EVERY, self._access.look, delay=LOOK_EVERY)
        if self._macs is not None:
            background.poll(LOOK_EVERY, self._macs.look, delay=LOOK_EVERY)
        if self._tracer is not None:
            self._trace_hits(background, running, self._tracer)

    def _trace_hits(self, background: BackgroundTasks, running: AsyncExitStack, tracer: "OtelTracer") -> None:
        take = self._host.trace_hits(self._settings.trace_ratio, tracer.record_hit)

        def look() -> None:
            tracer.lost += take()

        background.poll(TAKE_HITS_EVERY, look, delay=TAKE_HITS_EVERY)
        running.callback(look)

    def _serve(self, spec: DatasetSpec, all_memory: float) -> _Served:
        """Builds a dataset and its service, and adds the service to the server; `all_memory` is the sum of all shares."""
        store = self.store(spec.role)
        parts = Parts(
            settings=self._settings,
            clock=self._clock,
            policy=self._policy.reader(spec.name),
            database=store.database,
            writer=store.writer,
            changes=store.changes,
            bound=self._bound,
            datasets=dict(self._datasets),
            database_of=lambda role: self.store(role).database,
            dependencies=self.dependencies,
            record_events=self._events.write,
            oversells=self._oversells,
        )
        load, memory = spec.load(parts), self._memory(spec, parts, all_memory)
        tiers = Tiers(
            name=spec.name,
            l1=memory,
            l2=self._l2s[spec.role],
            l2_guard=self._l2_guard,
            load=load,
            policy=parts.policy,
            clock=self._clock,
            loads_singly=spec.loads_singly,
            reuse=self._reuse(memory),
        )
        dataset = Dataset(
            tiers,
            spec.expiry(tiers),
            rollout_key=spec.rollout_key,
            same=spec.same,
            freshness_lease=self._freshness_lease,
            is_private=spec.is_private,
        )
        service = self._add_service(spec, parts, dataset, memory)
        listeners = InvalidationListeners(dataset, *service.listeners) if service.listeners else dataset
        unpublished = UnpublishedChanges(listeners, quarantine=self._quarantines[spec.role])
        dataset.on_refusal = unpublished.on_refusal
        return _Served(
            spec,
            dataset,
            service,
            unpublished,
            Inspector(dataset, load, clock=self._clock, values_without_rows=spec.values_without_rows) if spec.memory else None,
            ReuseWatch(dataset, self._room(spec)),
        )

    def _add_service(self, spec: DatasetSpec, parts: Parts, dataset: Dataset, memory: L1) -> Service:
        """Builds the service of a dataset and adds it to the server; without one, returns what does nothing."""
        if spec.build is None or spec.register is None:
            return Service(None)
        service = spec.build(parts, dataset, memory)
        if spec.native:
            self._host.answer_hits(spec.service, spec.native, dataset=dataset, l1=memory, freshness_lease=self._freshness_lease)
        self.server.add(
            spec.service,
            spec.register,
            service.servicer,
            priority=spec.priority,
            priorities=spec.priorities,
            fast_path={method: answers(dataset) for method, answers in spec.fast_path.items()},
        )
        return service

    def _serve_events(self) -> EventWriter:
        """Adds the service that takes user events, which are no dataset: nothing is read from caches."""
        settings = self._settings
        store = UserEventStore(self.store("analytics").database)
        load_scripts = self._l2.load_scripts
        streams = EventStreams(self._connection, self._names, timeout=settings.redis_timeout, load_scripts=load_scripts)
        writer = EventWriter(streams, store, settings, clock=self._clock, dependency=self.dependencies.of("user events"))
        self.server.add(
            "cache_sidecar.v1.UserEventService",
            user_event_service_pb2_grpc.add_UserEventServiceServicer_to_server,
            UserEventService(writer, store, max_age=timedelta(days=settings.event_max_age), clock=self._clock),
            priority=Priority.LOW,
        )
        return writer

    def _serve_pages(self) -> StorefrontService:
        """Adds the service that puts pages together, which is no dataset: the other services read the parts."""
        service = StorefrontService(
            products=self._served[datasets.PRODUCT.name].service.servicer,
            inventory=self._served[datasets.INVENTORY.name].service.servicer,
            carts=self._served[datasets.CART.name].service.servicer,
            sessions=self._served[datasets.SESSION.name].service.servicer,
            recommender=self._served[datasets.RECOMMENDATION.name].service.servicer,
            describe=status.of,
            bound=self._bound,
        )
        self.server.add(
            "cache_sidecar.v1.StorefrontService",
            storefront_service_pb2_grpc.add_StorefrontServiceServicer_to_server,
            service,
            priority=Priority.NORMAL,
        )
        return service

    def _memory(self, spec: DatasetSpec, parts: Parts, all_memory: float) -> L1:
        if spec.memory_of_its_own is not None:
            return spec.memory_of_its_own(parts)
        if not spec.memory:
            return NO_L1
        share = spec.memory / all_memory
        bounds = {
            "max_bytes": max(1, int(self._settings.l1_max_bytes * share)),
            "max_entries": max(1, int(self._settings.l1_max_entries * share)),
        }
        if self._engine.is_native:
            from cache_sidecar.tiers.memory.native import NativeL1  # noqa: PLC0415  # where it is installed

            memory: L1 = NativeL1(**bounds)
        else:
            memory = ClockL1(**bounds)
        self._pressure.add(spec.name, pressure.Share(memory, share, bounds["max_entries"]))
        return memory

    def _reuse(self, memory: L1) -> Reuse:
        """Returns the simulation of a dataset's alternatives, where its hits are seen."""
        if self._engine.is_native:
            from cache_sidecar.tiers.memory.native import NativeL1, NativeReuse  # noqa: PLC0415  # where it is installed

            if isinstance(memory, NativeL1):
                return NativeReuse(memory.memory)
        return SampledReuse()

    def _room(self, spec: DatasetSpec) -> Callable[[], Room] | None:
        """Returns what tells the bounds of a dataset's share of memory; None without one."""
        if spec.memory_of_its_own is not None or not spec.memory:
            return None
        return lambda: Room(*self._pressure.room(spec.name))

    def _quarantine(self) -> Quarantine:
        shards, slot = self._connection.cluster, self._names.slot
        return Quarantine(
            freshness_lease=self._freshness_lease, holder=lambda partition: shards.holder(slot(partition)), clock=self._clock
        )

    def _wake(self) -> None:
        for store in self._stores.values():
            store.changes.wake()

    def _store(self, dsn: str, roles: list[str]) -> Store:
        size, timeout = self._settings.postgres_pool_size, self._settings.postgres_timeout
        dependency = self.dependencies.of("postgresql", ", ".join(roles))
        breaker = Breaker(Tier.STORE, clock=self._clock, dependency=dependency, effect=STORE_AWAY)
        guard = Guard(Tier.STORE, timeout=timeout, max_running=size, max_waiting=size * STORE_WAITING, breaker=breaker)
        database = Database(
            dsn, size=size, timeout=timeout, prepare=self._settings.postgres_prepare, guard=guard, dependency=dependency
        )
        guard.probe = database.ping
        check = DatabaseCheck(
            database,
            roles,
            dependency,
            rights=SIDECAR,
            language=self._settings.search_language,
            unreachable=breaker.report,
        )
        return Store(database, guard, Writer(database, bound=self._bound), Changes(Outbox(database)), check)


def _create_tracer(settings: Settings, dependencies: Dependencies) -> "OtelTracer | None":
    """Returns what traces calls, if they are to be; OpenTelemetry is loaded only then. Raises SettingsError."""
    if not settings.trace_endpoint:
        return None
    from cache_sidecar.core.span_export import Collector, OtelTracer  # noqa: PLC0415  # where it is installed

    collector = Collector(
        address=settings.trace_endpoint,
        tls=settings.trace_tls,
        ca=settings.trace_tls_ca,
        cert=settings.trace_tls_cert,
        key=settings.trace_tls_key,
    )
    dependency = dependencies.of("trace collector", settings.trace_endpoint)
    return OtelTracer(collector, ratio=settings.trace_ratio, service="cache-sidecar", dependency=dependency)
