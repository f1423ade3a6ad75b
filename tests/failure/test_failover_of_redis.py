"""What sidecars accept around a failover of Redis: an old primary that wakes up, and a replica that lost the tail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from grpc.aio import AioRpcError
from redis.crc import key_slot

from cache_sidecar.config import policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.datasets import TABLES
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.services.session import hash_of
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.tiers.coherence import subscriber
from cache_sidecar.tiers.ports import partition_of
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import SOURCE_L2
from tests.support import inside
from tests.support.cluster_proxies import away
from tests.support.customers import Customer, item, lines, new_user
from tests.support.databases import open_database
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.until import until

COUNT = 60


@pytest.fixture(scope="module")
async def cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    own = ValkeyCluster(processes, processes.state.path / "valkey-old", choose_ports(6))
    await own.start()
    yield own
    await own.stop()


@pytest.fixture
async def healthy(cluster: ValkeyCluster) -> AsyncIterator[ValkeyCluster]:
    yield cluster
    await cluster.heal()


@contextlib.asynccontextmanager
async def relaying(
    cluster: ValkeyCluster, database: str, namespace: str, *, roles: Sequence[str] = ("catalog", "user")
) -> AsyncIterator[None]:
    """Runs a relay of some datasets."""
    settings = settings_for(",".join(cluster.addresses), database, namespace, redis_timeout=0.25)
    connection, names = RedisClient(settings), KeyNames(namespace)
    async with open_database(database) as store:
        relay = Relay(
            RelayStore(store),
            RedisL2(connection, names),
            RedisWatermarks(connection, names),
            policy.default(),
            region="eu",
            roles=list(roles),
            retention=3600.0,
            clock=SystemClock(),
            dependency=Dependencies().of("relay"),
            tables=TABLES,
        )
        task = asyncio.create_task(relay.run(Leadership(database, region="eu")))
        try:
            yield
        finally:
            await cancel_and_wait(task)
            await connection.close()


class Shop:
    """Two sidecars, and what customers hold whose partitions one primary has."""

    def __init__(self, settings: Settings, primary: ValkeyServer, one: Customer, other: Customer) -> None:
        self.settings, self.primary, self.one, self.other = settings, primary, one, other
        self.sessions: list[str] = []
        self.carts: list[str] = []

    async def prepare(self) -> None:
        """Has both sidecars use sessions and carts of the primary."""
        app = self.one.sidecar.app
        assert app is not None
        owners = await inside.l2_of(app).owners()
        here = {p for (_, port), held in owners.items() if port == self.primary.port for p in held}
        while len(self.sessions) < COUNT:
            id = await self.one.create(new_user())
            if partition_of(hash_of(id)) in here:
                self.sessions.append(id)
        while len(self.carts) < COUNT:
            user = new_user()
            if partition_of(user) in here:
                await self.one.add(user, item("sofa"))
                self.carts.append(user)
        for customer in (self.one, self.other):
            for id in self.sessions:
                await customer.session(id)
            for user in self.carts:
                await customer.cart(user)

    async def change(self) -> None:
        """Ends every session, and adds to every cart, through the first sidecar; returns when all is acknowledged, and told."""
        for id in self.sessions:
            await self.one.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id))
        for user in self.carts:
            await self.one.add(user, item("lamp"))

    async def has_left(self, customer: Customer) -> bool:
        """Returns whether a sidecar, asked to look, knows that the primary is none any more, and uses Redis again."""
        app = customer.sidecar.app
        assert app is not None
        try:
            owners = await inside.l2_of(app).owners()
        except TierFailed:
            return False
        return self.primary.port not in {port for _, port in owners} and not away(inside.connection_of(app).cluster)

    async def accepted(self) -> list[str]:
        """Returns which of the ended sessions the other sidecar accepts, and which old carts it passes as new, in one round."""

        async def is_accepted(id: str) -> bool:
            try:
                return not (await self.other.session(id)).cache.stale
            except AioRpcError as error:
                return error.code().name not in ("NOT_FOUND", "UNAVAILABLE")

        async def is_old(user: str) -> bool:
            try:
                reply = await self.other.read(user)
            except AioRpcError:
                return False
            return not reply.cache.stale and "lamp" not in lines(reply.cart)

        found = await asyncio.gather(*map(is_accepted, self.sessions), *map(is_old, self.carts))
        return [what for what, old in zip([*self.sessions, *self.carts], found, strict=True) if old]


@contextlib.asynccontextmanager
async def open_shop(
    cluster: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    """Opens it; the other sidecar asks nobody who holds what, unless it has to."""
    every, again = subscriber.TOPOLOGY_EVERY, subscriber.TOPOLOGY_AGAIN
    settings = settings_for(",".join(cluster.addresses), database, namespace, redis_timeout=0.25, postgres_timeout=20.0)
    watermarks = {key_slot(KeyNames(namespace).watermark(role, 0).encode()) for role in ("catalog", "user")}
    (primary, *_) = [node for node in await cluster.primaries() if not watermarks & await slots_of(node)]
    async with contextlib.AsyncExitStack() as stack:
        monkeypatch.setattr(subscriber, "TOPOLOGY_EVERY", 3600.0)
        monkeypatch.setattr(subscriber, "TOPOLOGY_AGAIN", 3600.0)
        other = await stack.enter_async_context(in_process(settings))
        monkeypatch.setattr(subscriber, "TOPOLOGY_EVERY", every)
        monkeypatch.setattr(subscriber, "TOPOLOGY_AGAIN", again)
        one = await stack.enter_async_context(in_process(settings))
        shop = Shop(settings, primary, Customer(one), Customer(other))
        await shop.prepare()
        yield shop


async def slots_of(primary: ValkeyServer) -> set[int]:
    async with primary.client() as client:
        shards: Any = await client.execute_command("CLUSTER SLOTS")
    return {slot for first, last, node, *_ in shards if node[1] == primary.port for slot in range(first, last + 1)}


async def is_primary(cluster: ValkeyCluster, node: ValkeyServer) -> bool:
    return node in await cluster.primaries()


async def replica_of(cluster: ValkeyCluster, primary: ValkeyServer) -> ValkeyServer:
    for node in cluster.nodes:
        async with node.client() as client:
            info = await client.info("replication")
        if info["role"] == "slave" and info["master_port"] == primary.port:
            return node
    raise AssertionError("no replica")


async def test_an_old_primary_that_wakes_up_lets_nobody_in(
    healthy: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relaying(healthy, database, namespace), open_shop(healthy, database, namespace, monkeypatch) as shop:
        shop.primary.pause()
        await healthy.wait_ok()
        await until(lambda: shop.has_left(shop.one))
        await shop.change()
        reads = asyncio.create_task(shop.accepted())
        await asyncio.sleep(0.06)  # they are on their way; if they are not, there is nothing to be wrong
        shop.primary.resume()
        assert await reads == []
        for _ in range(20):
            assert await shop.accepted() == []


@pytest.mark.parametrize("relay", [True, False])
async def test_a_failover_that_loses_the_tail_brings_nothing_back(
    healthy: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch, relay: bool
) -> None:
    running = relaying(healthy, database, namespace) if relay else contextlib.nullcontext()
    async with running, open_shop(healthy, database, namespace, monkeypatch) as shop:
        replica = await replica_of(healthy, shop.primary)
        replica.pause()
        # What the primary is told from here on dies with it, instead of in a buffer on the way.
        async with shop.primary.client() as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        await shop.change()
        shop.primary.kill()
        replica.resume()
        # Nobody asks meanwhile: what PostgreSQL answers would be filled in as soon as Redis takes it.
        await until(lambda: is_primary(healthy, replica))
        await until(lambda: shop.has_left(shop.other))
        loop = asyncio.get_running_loop()
        until_then = loop.time() + 4
        while loop.time() < until_then:
            assert await shop.accepted() == []
            await asyncio.sleep(0.02)


async def test_a_sidecar_that_starts_before_the_relay_knows_of_a_failover_brings_nothing_back(
    healthy: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race is held by there being no relay: the new primary has the marks of the one before, and nobody tells it more."""
    async with contextlib.AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(healthy, database, namespace, monkeypatch))
        replica = await replica_of(healthy, shop.primary)
        replica.pause()
        async with shop.primary.client() as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        await shop.change()
        shop.primary.kill()
        replica.resume()
        await until(lambda: is_primary(healthy, replica))
        await healthy.wait_ok()
        # It hears the new primary from its first moment on, and was never told of an outage.
        # On a busy machine no heartbeat of it is late, which would be an outage.
        settings = shop.settings.model_copy(update={"redis_timeout": 5.0})
        started = await stack.enter_async_context(in_process(settings, relay=False))
        shop.other = Customer(started)
        app = started.app
        assert app is not None
        for _ in range(3):
            assert await shop.accepted() == []
            await inside.region_of(app).step()

        async def is_read_from_redis() -> bool:
            cache = (await shop.other.read(shop.carts[0])).cache
            return cache.source == SOURCE_L2 and not cache.stale

        async with relaying(healthy, database, namespace):
            await until(is_read_from_redis)
            assert await shop.accepted() == []
