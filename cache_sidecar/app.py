"""The composition root: the one place that builds and wires, and knows in which order things start and stop.

What differs from dataset to dataset stands in `datasets.py`. Here each of them gets its tiers, and whoever has to hear of it.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from cache_sidecar import datasets
from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.config.policy import Policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies, Failing
from cache_sidecar.core.dependency_checks import Checks
from cache_sidecar.core.errors import Tier
from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.watched_files import poll
from cache_sidecar.datasets import DatasetSpec, Parts, Service
from cache_sidecar.server.auth import Access
from cache_sidecar.server.engines import selection
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Middleware
from cache_sidecar.server.server import Server
from cache_sidecar.server.tls import Tls
from cache_sidecar.services.admin import AdminService
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.store.check import DatabaseCheck
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.pool import Database
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.listeners import InvalidationListeners
from cache_sidecar.tiers.coherence.quarantine import Quarantine, QuarantinedL2
from cache_sidecar.tiers.coherence.region import Region
from cache_sidecar.tiers.coherence.subscriber import INVALIDATIONS, UNHEARD, InvalidationSubscriber
from cache_sidecar.tiers.coherence.unpublished import UnpublishedChanges
from cache_sidecar.tiers.memory.clock import NO_L1, ClockL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.inspector import Inspector
from cache_sidecar.tiers.path.sliding import SlidingDataset
from cache_sidecar.tiers.ports import L1, Load
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from cache_sidecar.v1 import admin_service_pb2_grpc

# Work in Redis at once and waiting for it; each piece is a whole batch.
L2_RUNNING, L2_WAITING = 64, 2_000
# Work that may wait for PostgreSQL, per connection.
STORE_WAITING = 64
# What callers see of a PostgreSQL that does not answer.
STORE_AWAY = "only cached data is served, and writes fail"


class Store(NamedTuple):
    """What there is of each distinct database."""

    database: Database
    writer: Writer
    changes: Changes
    check: DatabaseCheck


class _Served(NamedTuple):
    """A dataset, as it runs."""

    spec: DatasetSpec
    dataset: Dataset
    service: Service
    unpublished: UnpublishedChanges
    "Stands between coherence and those who hear of its changes."
    inspector: Inspector | None


class App:
    """One sidecar."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        specs: Sequence[DatasetSpec] = datasets.ALL,
        default_policy: Policy | None = None,
    ) -> None:
        """`default_policy` is what ships, if none is given. Raises SettingsError."""
        self._settings = settings
        self._engine = selection.choose(settings.engine, listen_socket=settings.listen_socket)
        self._clock = clock or SystemClock()
        self._bound = Bound(settings.max_message_bytes)
        self._policy = LivePolicy(settings.policy_file, clock=self._clock, default=default_policy)
        datasets.check_policy(specs, self._policy)
        self.dependencies = Dependencies(clock=self._clock, secrets=settings.secrets())
        self._stores = {dsn: self._store(dsn, roles) for dsn, roles in settings.databases().items()}

        # Redis, and which of its replies count: one quarantine for all that one relay tells it of.
        self._connection = RedisClient(settings, dependencies=self.dependencies)
        self._names = KeyNames(settings.namespace)
        self._l2 = RedisL2(self._connection, self._names)
        # A connection too many is refused at once; two are left for what is not guarded.
        running = max(1, min(L2_RUNNING, settings.redis_max_connections - 2))
        # Twice the time of a command: a shard that hangs must not cost what the others answered. Each has a breaker of its own.
        self._l2_guard = Guard(Tier.L2, timeout=2 * settings.redis_timeout, max_running=running, max_waiting=L2_WAITING)
        self._freshness_lease = FreshnessLease()
        roles = dict.fromkeys(spec.role for spec in specs)
        self._quarantines = {role: self._quarantine() for role in roles}
        self._l2s = {
            role: QuarantinedL2(self._connection, self._names, quarantine) for role, quarantine in self._quarantines.items()
        }

        # The server.
        self._access = Access.of(settings)
        self._tls = Tls.of(settings)
        stack = Middleware(
            max_calls=settings.max_concurrent_calls,
            max_calls_each=settings.max_dataset_calls,
            max_streams=settings.max_streams,
            max_reply=settings.max_message_bytes,
            access=self._access,
        )
        self._host = selection.create(self._engine, settings, self._clock)
        if self._access is not None:
            self._host.limit_access(self._access)
        self.server = Server(self._host, stack, settings, tls=self._tls)

        # The datasets.
        self._served = {spec.name: self._serve(spec, sum(one.memory for one in specs)) for spec in specs}
        self._datasets = {name: served.dataset for name, served in self._served.items()}
        self._policy.follow(lambda name, old: self._datasets[name].policy_changed(old))
        self._policy.follow(lambda _name, _old: self._host.policy_changed())
        by_role = {role: [one for one in self._served.values() if one.spec.role == role] for role in roles}
        self._region = Region(
            RedisWatermarks(self._connection, self._names),
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

        # What operators look at.
        self._checks = Checks(self.dependencies, [self._l2.check, *(store.check.run for store in self._stores.values())])
        self._collections = Collections()
        self.server.add(
            "cache_sidecar.v1.AdminService",
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
            AdminService(
                self._datasets,
                self._policy,
                {name: served.inspector.counts for name, served in self._served.items() if served.inspector is not None},
                self.degraded,
                self._collections,
                keys={spec.name: spec.keys for spec in specs if spec.keys is not None},
            ),
            priority=Priority.VITAL,
        )
        self._running = AsyncExitStack()
        "What was started, to be stopped in the opposite order."

    def store(self, role: str) -> Store:
        """Returns what there is of the database that has a role."""
        return self._stores[self._settings.database(role)]

    def degraded(self) -> list[Failing]:
        """Returns the dependencies that are failing now, as seen by calls, checks and background tasks."""
        found = self.dependencies.failing()
        if not self.coherence.is_trusted() and not any(one.what == INVALIDATIONS for one in found):
            # Nothing failed: the subscriptions are being made, or the last heartbeat is late.
            found.append(Failing(INVALIDATIONS, "", UNHEARD, "not heard yet", self._clock.now()))
        return found

    async def start(self) -> None:
        """Starts serving. Redis and PostgreSQL may be away: what needs them heals when they come. Raises SettingsError.

        Read upward, this is how it stops once callers are gone: first what works for them, then the connections.
        """
        # First, as it may fail: then nothing has been asked of Redis and PostgreSQL, or logged about them.
        self.server.bind()
        running = self._running
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
        self._start_background(running)
        self._policy.start()
        running.push_async_callback(self._policy.stop)
        await self.server.start()
        telemetry.log.info(
            "serving",
            address=self.server.address,
            socket=self._settings.listen_socket,
            engine=self._engine.name,
            because=self._engine.reason,
        )

    async def stop(self) -> None:
        """Drains, then stops what was started. To be called also after a `start` that failed."""
        await self.server.drain()
        await self._running.aclose()

    def _start_background(self, running: AsyncExitStack) -> None:
        background = BackgroundTasks()
        running.push_async_callback(background.stop)
        background.start(self._region.run())
        background.start(self._checks.run())
        for served in self._served.values():
            if served.inspector is not None:
                background.start(served.inspector.run())
        if self._tls is not None:
            background.start(poll(self._tls.look))
        if self._access is not None:
            background.start(poll(self._access.look))

    def _serve(self, spec: DatasetSpec, all_memory: float) -> _Served:
        """Builds a dataset and its service, and adds that to the server; `all_memory` is the sum of all shares."""
        database, writer, changes, _ = self.store(spec.role)
        parts = Parts(
            settings=self._settings,
            clock=self._clock,
            policy=self._policy.reader(spec.name),
            database=database,
            writer=writer,
            changes=changes,
            bound=self._bound,
        )
        load, memory = spec.load(parts), self._memory(spec, parts, all_memory)
        dataset = self._dataset(spec, parts, load=load, memory=memory)
        service = spec.build(parts, dataset, memory)
        listeners = InvalidationListeners(dataset, *service.listeners) if service.listeners else dataset
        unpublished = UnpublishedChanges(listeners, quarantine=self._quarantines[spec.role])
        dataset.on_refusal = unpublished.refused
        inspector = Inspector(dataset, load, clock=self._clock) if spec.memory else None
        if spec.native:
            self._host.answer_hits(spec.service, spec.native, dataset=dataset, l1=memory, freshness_lease=self._freshness_lease)
        self.server.add(
            spec.service,
            spec.register,
            service.servicer,
            priority=spec.priority,
            hits={method: answers(dataset) for method, answers in spec.fast_path.items()},
        )
        return _Served(spec, dataset, service, unpublished, inspector)

    def _dataset(self, spec: DatasetSpec, parts: Parts, *, load: Load, memory: L1) -> Dataset:
        if spec.sliding is not None:
            return SlidingDataset(
                spec.name,
                l2=self._l2s[spec.role],
                load=load,
                l2_guard=self._l2_guard,
                policy=parts.policy,
                clock=self._clock,
                joins=spec.sliding.joins,
                remembers_over=spec.sliding.remembers_over,
                same=spec.same,
                freshness_lease=self._freshness_lease,
                is_private=spec.is_private,
            )
        return Dataset(
            spec.name,
            l1=memory,
            l2=self._l2s[spec.role],
            load=load,
            l2_guard=self._l2_guard,
            policy=parts.policy,
            clock=self._clock,
            rollout_key=spec.rollout_key,
            same=spec.same,
            freshness_lease=self._freshness_lease,
            is_private=spec.is_private,
        )

    def _memory(self, spec: DatasetSpec, parts: Parts, all_memory: float) -> L1:
        if spec.memory_of_its_own is not None:
            return spec.memory_of_its_own(parts)
        if not spec.memory:
            return NO_L1
        share = spec.memory / all_memory
        bounds = {
            "max_bytes": int(self._settings.l1_max_bytes * share),
            "max_entries": int(self._settings.l1_max_entries * share),
        }
        if not self._engine.is_native:
            return ClockL1(**bounds)
        from cache_sidecar.tiers.memory.native import NativeL1  # noqa: PLC0415  # where it is installed

        return NativeL1(**bounds)

    def _quarantine(self) -> Quarantine:
        shards, slot = self._connection.shards, self._names.slot
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
        check = DatabaseCheck(database, roles, dependency, unreachable=breaker.tell)
        return Store(database, Writer(database, bound=self._bound), Changes(Outbox(database)), check)
