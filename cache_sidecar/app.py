"""The composition root: the one place that builds and wires, and knows in which order things start and stop."""

from cache_sidecar import policy, telemetry
from cache_sidecar.clock import Clock, SystemClock
from cache_sidecar.engine import aio
from cache_sidecar.errors import Tier
from cache_sidecar.server import Server
from cache_sidecar.services import product
from cache_sidecar.services.admin import AdminService
from cache_sidecar.services.changes import Changes
from cache_sidecar.services.product import ProductService
from cache_sidecar.services.writing import Writer
from cache_sidecar.settings import Settings
from cache_sidecar.stack import Stack
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.pool import Database
from cache_sidecar.store.product import ProductStore
from cache_sidecar.tiers.coherence import Coherence
from cache_sidecar.tiers.dataset import Dataset
from cache_sidecar.tiers.guard import Guard
from cache_sidecar.tiers.l1 import LruL1
from cache_sidecar.tiers.l2 import Connection, Names, RedisL2
from cache_sidecar.tiers.ports import Load
from cache_sidecar.v1 import admin_service_pb2_grpc, product_service_pb2_grpc

# Work in Redis at once and waiting for it; each piece is a whole batch.
L2_RUNNING, L2_WAITING = 64, 2_000
# Work that may wait for PostgreSQL, per connection.
STORE_WAITING = 64


class App:
    """One sidecar."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._policy = policy.load(settings.policy_file)
        self._connection = Connection(settings)
        names = Names(settings.namespace)
        self._l2 = RedisL2(self._connection, names)
        self._l2_guard = self._guard(Tier.L2, settings.redis_timeout, running=L2_RUNNING, waiting=L2_WAITING)
        size = settings.postgres_pool_size
        self._database = Database(
            settings.database("catalog"),
            size=size,
            timeout=settings.postgres_timeout,
            prepare=settings.postgres_prepare,
            guard=self._guard(Tier.STORE, settings.postgres_timeout, running=size, waiting=size * STORE_WAITING),
        )
        self._changes = Changes(Outbox(self._database))
        self._writer = Writer(self._database)

        products = ProductStore(self._database)
        self._datasets = {
            product.DATASET: self._dataset(product.DATASET, product.loader(products)),
        }
        self.coherence = Coherence(self._l2, self._connection, names, followers=self._datasets, on_message=self._changes.wake)
        stack = Stack(max_calls=settings.max_concurrent_calls, max_streams=settings.max_streams)
        self.server = Server(aio.create(settings), stack, settings)
        self.server.add(
            "cache_sidecar.v1.ProductService",
            product_service_pb2_grpc.add_ProductServiceServicer_to_server,
            ProductService(self._datasets[product.DATASET], store=products, writer=self._writer, changes=self._changes),
        )
        self.server.add(
            "cache_sidecar.v1.AdminService",
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
            AdminService(self._datasets),
        )

    async def start(self) -> None:
        """Starts serving. Redis and PostgreSQL may be away: what needs them heals when they come. Raises SettingsError."""
        await self._database.open()
        self.coherence.start()
        await self.server.start()
        telemetry.log.info("serving", address=self.server.address, socket=self._settings.listen_socket, engine="grpc.aio")

    async def stop(self) -> None:
        """Drains: callers first, then what works for them, then the connections."""
        await self.server.drain()
        await self._writer.close()
        for dataset in self._datasets.values():
            await dataset.close()
        await self.coherence.stop()
        await self._connection.close()
        await self._database.close()
        telemetry.log.info("stopped")

    def _dataset(self, name: str, load: Load) -> Dataset:
        return Dataset(
            name,
            l1=LruL1(max_bytes=self._settings.l1_max_bytes, max_entries=self._settings.l1_max_entries),
            l2=self._l2,
            load=load,
            l2_guard=self._l2_guard,
            policy=lambda: self._policy[name],
            clock=self._clock,
        )

    def _guard(self, tier: Tier, timeout: float, *, running: int, waiting: int) -> Guard:
        return Guard(tier, timeout=timeout, max_running=running, max_waiting=waiting, clock=self._clock)
