"""The composition root: the one place that builds and wires, and knows in which order things start and stop."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies, Failing
from cache_sidecar.core.dependency_checks import Checks
from cache_sidecar.core.errors import Tier
from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.core.tasks import Background
from cache_sidecar.core.watched_files import look_again
from cache_sidecar.inventory.admission import Gate
from cache_sidecar.inventory.granted_requests import Grants
from cache_sidecar.inventory.sold_out import SoldOut
from cache_sidecar.inventory.stock import Stocks
from cache_sidecar.inventory.watch import Watches
from cache_sidecar.server.auth import Access
from cache_sidecar.server.engines import aio
from cache_sidecar.server.engines.selection import choose
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Stack
from cache_sidecar.server.server import Server
from cache_sidecar.server.tls import Tls
from cache_sidecar.services import cart, product, session, stock
from cache_sidecar.services.admin import AdminService
from cache_sidecar.services.cart import CartService
from cache_sidecar.services.cart_items import Limits
from cache_sidecar.services.inventory import InventoryService
from cache_sidecar.services.product import ProductService
from cache_sidecar.services.session import SessionService
from cache_sidecar.services.shared import fast_path
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.services.touches import Touches
from cache_sidecar.store.cart import CartStore
from cache_sidecar.store.check import DatabaseCheck
from cache_sidecar.store.inventory import InventoryStore, every_row, possible_rows, product_of, row_ids
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.pool import Database
from cache_sidecar.store.product import ProductStore
from cache_sidecar.store.reservation import MAX_GRANTS, ReservationStore
from cache_sidecar.store.session import SessionStore
from cache_sidecar.tiers.coherence.freshness_lease import Trust
from cache_sidecar.tiers.coherence.listeners import Followers
from cache_sidecar.tiers.coherence.quarantine import Fence, FencedL2
from cache_sidecar.tiers.coherence.region import Region
from cache_sidecar.tiers.coherence.subscriber import INVALIDATIONS, UNHEARD, Coherence
from cache_sidecar.tiers.coherence.unpublished import Untold
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.inspector import Inspector
from cache_sidecar.tiers.path.shadow import Same
from cache_sidecar.tiers.path.sliding import SlidingDataset
from cache_sidecar.tiers.ports import L1, Load
from cache_sidecar.tiers.redis.client import Connection
from cache_sidecar.tiers.redis.keys import Names
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisSigns
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from cache_sidecar.v1 import (
    admin_service_pb2_grpc,
    cart_service_pb2_grpc,
    inventory_service_pb2_grpc,
    product_service_pb2_grpc,
    session_service_pb2_grpc,
)

# Work in Redis at once and waiting for it; each piece is a whole batch.
L2_RUNNING, L2_WAITING = 64, 2_000
# Work that may wait for PostgreSQL, per connection.
STORE_WAITING = 64
# What callers see of a PostgreSQL that does not answer.
STORE_AWAY = "only what is cached is answered, and nothing is written"


class _Store(NamedTuple):
    """What there is of each distinct database."""

    database: Database
    writer: Writer
    changes: Changes
    check: DatabaseCheck


class App:
    """One sidecar."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._engine = choose(settings.engine, listen_socket=settings.listen_socket)
        self._is_serving = False
        self._clock = clock or SystemClock()
        self._bound = Bound(settings.max_message_bytes)
        self._policy = LivePolicy(settings.policy_file, clock=self._clock)
        self.dependencies = Dependencies(clock=self._clock, secrets=settings.secrets())
        self._connection = Connection(settings, dependencies=self.dependencies)
        names = Names(settings.namespace)
        self._l2 = RedisL2(self._connection, names)
        self._trust = Trust()
        self._fences = {role: self._fence(names) for role in ROLES}
        self._l2s = {role: FencedL2(self._connection, names, fence) for role, fence in self._fences.items()}
        # A connection too many is refused at once; two are left for what is not guarded.
        running = max(1, min(L2_RUNNING, settings.redis_max_connections - 2))
        # Twice the time of a command: a shard that hangs must not cost what the others answered. Each has a breaker of its own.
        self._l2_guard = Guard(Tier.L2, timeout=2 * settings.redis_timeout, max_running=running, max_waiting=L2_WAITING)
        self._stores = {dsn: self._store(dsn, roles) for dsn, roles in settings.databases().items()}
        self._database, self._writer, self._changes, _ = self._stores[settings.database("catalog")]

        self._memory = self._l1()
        products = ProductStore(self._database)
        load_products = product.loader(products)
        inventory = InventoryStore(self._database)
        of_stock = self._policy.reader(stock.DATASET)
        sold_out = SoldOut(row_ids=row_ids, clock=self._clock, in_shadow=lambda: of_stock().shadow)
        self._datasets = {
            product.DATASET: self._dataset(product.DATASET, load_products, l1=self._memory, same=product.same),
            stock.DATASET: self._dataset(stock.DATASET, stock.loader(inventory), l1=sold_out, rollout_key=product_of),
        }
        sessions, carts = self._sessions(), self._carts()
        self._policy.follow(lambda name, old: self._datasets[name].policy_changed(old))
        stocks = self._stocks = Stocks(self._datasets[stock.DATASET], row_ids=row_ids, load_whole=stock.whole_loader(inventory))
        watches = Watches(stocks, inventory)
        followers = self._datasets | {
            stock.DATASET: Followers(self._datasets[stock.DATASET], watches),
        }
        roles = self._by_role()
        untold = {
            dataset.name: Untold(followers[dataset.name], fence=self._fences[role])
            for role, members in roles.items()
            for dataset in members
        }
        for name, dataset in self._datasets.items():
            dataset.on_refusal = untold[name].refused
        self._inspector = Inspector(self._datasets[product.DATASET], load_products, clock=self._clock)
        waiting = {role: [untold[dataset.name] for dataset in members] for role, members in roles.items()}
        self._region = Region(
            RedisSigns(self._connection, names),
            roles,
            fences=self._fences,
            waiting=waiting,
            clock=self._clock,
            dependencies=self.dependencies,
        )
        self._checks = Checks(self.dependencies, [self._l2.check, *(store.check.run for store in self._stores.values())])
        self._background = Background()
        self._collections = Collections()
        self._access = Access.of(settings)
        self.coherence = Coherence(
            self._l2,
            self._connection,
            names,
            timeout=settings.redis_timeout,
            trust=self._trust,
            followers=untold,
            fences=list(self._fences.values()),
            on_message=self._wake,
        )
        stack = Stack(
            max_calls=settings.max_concurrent_calls,
            max_calls_each=settings.max_dataset_calls,
            max_streams=settings.max_streams,
            max_reply=settings.max_message_bytes,
            access=self._access,
        )
        self._tls = Tls.of(settings)
        self.server = Server(self._host(), stack, settings, tls=self._tls)
        self.server.add(
            "cache_sidecar.v1.ProductService",
            product_service_pb2_grpc.add_ProductServiceServicer_to_server,
            ProductService(
                self._datasets[product.DATASET],
                store=products,
                writer=self._writer,
                changes=self._changes,
                bound=self._bound,
            ),
            priority=Priority.NORMAL,
            hits={"GetProduct": fast_path.by_id(self._datasets[product.DATASET])},
        )
        self.server.add(
            "cache_sidecar.v1.InventoryService",
            inventory_service_pb2_grpc.add_InventoryServiceServicer_to_server,
            self._inventory(inventory, stocks, sold_out, watches),
            priority=Priority.VITAL,
        )
        self.server.add(
            "cache_sidecar.v1.SessionService",
            session_service_pb2_grpc.add_SessionServiceServicer_to_server,
            sessions,
            priority=Priority.VITAL,
        )
        self.server.add(
            "cache_sidecar.v1.CartService",
            cart_service_pb2_grpc.add_CartServiceServicer_to_server,
            carts,
            priority=Priority.VITAL,
        )
        self.server.add(
            "cache_sidecar.v1.AdminService",
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
            AdminService(
                self._datasets,
                self._policy,
                {product.DATASET: self._inspector.counts},
                self.degraded,
                self._collections,
                keys={stock.DATASET: possible_rows},
            ),
            priority=Priority.VITAL,
        )

    def degraded(self) -> list[Failing]:
        """Returns what does not work now, as far as calls, checks and what goes on behind them have met it."""
        found = self.dependencies.failing()
        if not self.coherence.is_trusted() and not any(one.what == INVALIDATIONS for one in found):
            # Nothing failed: the subscriptions are being made, or the last heartbeat is late.
            found.append(Failing(INVALIDATIONS, "", UNHEARD, "not heard yet", self._clock.now()))
        return found

    async def start(self) -> None:
        """Starts serving. Redis and PostgreSQL may be away: what needs them heals when they come. Raises SettingsError."""
        # First, as it may fail: then nothing has been asked of Redis and PostgreSQL, or logged about them.
        self.server.bind()
        for store in self._stores.values():
            await store.database.open()
        self._collections.start()
        self._policy.start()
        self.coherence.start()
        self._background.start(self._region.run())
        self._background.start(self._inspector.run())
        self._background.start(self._checks.run())
        if self._tls is not None:
            self._background.start(look_again(self._tls.look))
        if self._access is not None:
            self._background.start(look_again(self._access.look))
        self._touches.start()
        await self.server.start()
        self._is_serving = True
        telemetry.log.info(
            "serving",
            address=self.server.address,
            socket=self._settings.listen_socket,
            engine=self._engine.name,
            because=self._engine.reason,
        )

    async def stop(self) -> None:
        """Drains: callers first, then what works for them, then the connections."""
        await self.server.drain()
        await self._policy.stop()
        await self._background.stop()
        for store in self._stores.values():
            await store.writer.close()
        await self._touches.close()
        await self._grants.close()
        await self._stocks.close()
        for dataset in self._datasets.values():
            await dataset.close()
        await self.coherence.stop()
        await self._connection.close()
        for store in self._stores.values():
            await store.database.close()
        self._collections.stop()
        if self._is_serving:
            telemetry.log.info("stopped")

    def _by_role(self) -> dict[str, list[Dataset]]:
        roles = {"catalog": [product.DATASET, stock.DATASET], "user": [session.DATASET, cart.DATASET]}
        return {role: [self._datasets[name] for name in names] for role, names in roles.items()}

    def _fence(self, names: Names) -> Fence:
        shards = self._connection.shards
        return Fence(trust=self._trust, holder=lambda partition: shards.holder(names.slot(partition)), clock=self._clock)

    def _wake(self) -> None:
        for store in self._stores.values():
            store.changes.wake()

    def _store(self, dsn: str, roles: list[str]) -> _Store:
        size, timeout = self._settings.postgres_pool_size, self._settings.postgres_timeout
        dependency = self.dependencies.of("postgresql", ", ".join(roles))
        breaker = Breaker(Tier.STORE, clock=self._clock, dependency=dependency, effect=STORE_AWAY)
        guard = Guard(Tier.STORE, timeout=timeout, max_running=size, max_waiting=size * STORE_WAITING, breaker=breaker)
        database = Database(
            dsn, size=size, timeout=timeout, prepare=self._settings.postgres_prepare, guard=guard, dependency=dependency
        )
        guard.probe = database.ping
        check = DatabaseCheck(database, roles, dependency, unreachable=breaker.tell)
        return _Store(database, Writer(database, bound=self._bound), Changes(Outbox(database)), check)

    def _sessions(self) -> SessionService:
        database, writer, *_ = self._stores[self._settings.database("user")]
        store = SessionStore(database)

        in_force = self._policy.reader(session.DATASET)
        # Once all sessions of a user are ended no read may be answered with what was read before: so they don't join.
        load = session.loader(store, policy=in_force, clock=self._clock)
        dataset = self._sliding(session.DATASET, load, joins=False, remembers_over=True)
        self._touches = Touches(
            session.writes(store, dataset),
            window=lambda: in_force().touch_window,
            clock=self._clock,
        )
        dataset.on_uncounted = self._touches.uncounted
        return SessionService(dataset, store=store, writer=writer, touches=self._touches, clock=self._clock, bound=self._bound)

    def _carts(self) -> CartService:
        database, writer, changes, _ = self._stores[self._settings.database("user")]
        store = CartStore(database)
        dataset = self._sliding(cart.DATASET, cart.loader(store), joins=True, same=cart.same)
        limits = Limits(items=self._settings.cart_max_items, quantity=self._settings.cart_max_quantity)
        return CartService(dataset, store=store, writer=writer, changes=changes, limits=limits, bound=self._bound)

    def _sliding(
        self, name: str, load: Load, *, joins: bool, remembers_over: bool = False, same: Same = operator.eq
    ) -> SlidingDataset:
        dataset = self._datasets[name] = SlidingDataset(
            name,
            l2=self._l2s["user"],
            load=load,
            l2_guard=self._l2_guard,
            policy=self._policy.reader(name),
            clock=self._clock,
            joins=joins,
            remembers_over=remembers_over,
            same=same,
            trust=self._trust,
        )
        return dataset

    def _inventory(self, store: InventoryStore, stocks: Stocks, sold_out: SoldOut, watches: Watches) -> InventoryService:
        reservations = ReservationStore(self._database)
        self._grants = Grants(reservations.grants, max_grants=MAX_GRANTS, clock=self._clock)
        return InventoryService(
            self._datasets[stock.DATASET],
            stocks=stocks,
            store=store,
            reservations=reservations,
            writer=self._writer,
            gate=Gate(stocks, sold_out, self._grants, every_row=every_row),
            watches=watches,
            clock=self._clock,
            bound=self._bound,
        )

    def _dataset(
        self,
        name: str,
        load: Load,
        *,
        l1: L1,
        rollout_key: Callable[[str], str] = str,
        same: Same = operator.eq,
    ) -> Dataset:
        return Dataset(
            name,
            l1=l1,
            l2=self._l2s["catalog"],
            load=load,
            l2_guard=self._l2_guard,
            policy=self._policy.reader(name),
            clock=self._clock,
            rollout_key=rollout_key,
            same=same,
            trust=self._trust,
        )

    def _l1(self) -> L1:
        bounds = {"max_bytes": self._settings.l1_max_bytes, "max_entries": self._settings.l1_max_entries}
        if not self._engine.is_native:
            return ClockL1(**bounds)
        from cache_sidecar.tiers.memory.native import NativeL1  # noqa: PLC0415  # where it is installed

        return NativeL1(**bounds)

    def _host(self) -> Any:
        """Returns the engine."""
        if not self._engine.is_native:
            return aio.create(self._settings)
        from cache_sidecar.server.engines import native  # noqa: PLC0415  # where it is installed

        host = native.create(self._settings, self._clock)
        host.answer_hits(
            "cache_sidecar.v1.ProductService",
            ["GetProduct", "BatchGetProducts"],
            dataset=self._datasets[product.DATASET],
            l1=self._memory,
            trust=self._trust,
        )
        self._policy.follow(lambda _name, _old: host.policy_changed())
        if self._access is not None:
            host.limit_access(self._access)
        return host
