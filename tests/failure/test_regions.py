"""Regions: each has a Redis cluster and a relay of its own, and all follow one PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.config import policy
from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.datasets import TABLES
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.tiers.coherence import region as region_module
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.v1.product_pb2 import Product
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.databases import open_database, run
from tests.support.dataset_case import redis_settings, told_until
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.proxy import Proxy
from tests.support.shop import L1, Shop, new_id
from tests.support.until import until

BOUND = policy.default()["product"].staleness_bound
PRODUCTS = 20


@pytest.fixture(scope="module")
async def clusters(
    processes: Processes, valkey_cluster: ValkeyCluster, choose_ports: ChoosePorts
) -> AsyncIterator[list[ValkeyCluster]]:
    """Three clusters: the one that all tests share, and two of three primaries each."""
    ports = choose_ports(6)
    further = [
        ValkeyCluster(processes, processes.state.path / f"valkey-region-{number}", part, replicas=False)
        for number, part in enumerate((ports[:3], ports[3:]))
    ]
    await asyncio.gather(*(cluster.start() for cluster in further))
    yield [valkey_cluster, *further]
    for cluster in further:
        await cluster.stop()


class Place:
    """A region: a sidecar and a relay over its Redis, and a clock that both go by."""

    def __init__(self, shop: Shop, clock: ManualClock) -> None:
        self.shop = shop
        self.clock = clock

    async def shows(self, wanted: Product, *, source: int = L1) -> bool:
        """Says whether a product is answered as it should be, from memory, and as fresh."""
        reply = await self.shop.get(wanted.product_id)
        return (reply.product, reply.cache.source, reply.cache.stale) == (wanted, source, False)

    async def says_stale(self, id: str) -> bool:
        return bool((await self.shop.get(id)).cache.stale)


@contextlib.asynccontextmanager
async def opened(name: str, cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[Place]:
    clock, nodes = ManualClock(), ",".join(cluster.addresses)
    settings = settings_for(nodes, database, namespace, region=name, redis_timeout=5.0, postgres_timeout=20.0)
    async with relaying(name, nodes, database, namespace, clock), in_process(settings, clock=clock, relay=False) as sidecar:
        yield Place(Shop(sidecar), clock)


@contextlib.asynccontextmanager
async def relaying(name: str, nodes: str, database: str, namespace: str, clock: ManualClock) -> AsyncIterator[None]:
    connection, names = RedisClient(redis_settings(nodes, redis_timeout=5.0)), KeyNames(namespace)
    l2, watermarks = RedisL2(connection, names), RedisWatermarks(connection, names)
    async with open_database(database) as store:
        known = policy.default()
        relay = Relay(
            RelayStore(store),
            l2,
            watermarks,
            known,
            region=name,
            roles=list(ROLES),
            retention=3600.0,
            clock=clock,
            dependency=Dependencies().of("relay"),
            tables=TABLES,
        )
        task = asyncio.create_task(relay.run(Leadership(database, region=name)))
        try:
            yield
        finally:
            await cancel_and_wait(task)
            await connection.close()


@pytest.fixture
async def places(
    clusters: list[ValkeyCluster], database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Place, Place, Place, Proxy]]:
    """Three regions, and the way of the second one to PostgreSQL."""
    monkeypatch.setattr(region_module, "EVERY", 0.05)
    target = database.rpartition("@")[2].partition("/")[0]
    async with contextlib.AsyncExitStack() as stack:
        way = await stack.enter_async_context(Proxy(target))
        dsns = [database, database.replace(target, way.address), database]
        found = [
            await stack.enter_async_context(opened(name, cluster, dsn, namespace))
            for name, cluster, dsn in zip(("eu", "us", "asia"), clusters, dsns, strict=True)
        ]
        yield found[0], found[1], found[2], way


async def everywhere(places: list[Place], wanted: Product) -> None:
    for place in places:
        await until(lambda place=place: place.shows(wanted))


async def test_a_write_in_one_region_reaches_the_memory_of_every_other(
    places: tuple[Place, Place, Place, Proxy], database: str
) -> None:
    eu, us, asia, _ = places
    product = await eu.shop.create()
    await everywhere([eu, us, asia], product)
    for writer in (us, asia, eu):
        product = await writer.shop.update(product.product_id, title=new_id("title"))
        await everywhere([eu, us, asia], product)
    await run(database, "UPDATE cache_sidecar.products SET title = 'by hand'")
    product = (await eu.shop.get(product.product_id, bypass=True)).product
    assert product.title == "by hand"
    await everywhere([eu, us, asia], product)


async def test_a_region_that_is_cut_off_says_so_and_catches_up_without_loss(
    places: tuple[Place, Place, Place, Proxy],
) -> None:
    eu, us, asia, way = places
    products = [await eu.shop.create() for _ in range(PRODUCTS)]
    for product in products:
        await everywhere([us, asia], product)
    us.clock.advance(BOUND / 2)
    await until(lambda: signed(us))
    way.cut()
    changed = [await eu.shop.update(product.product_id, title="changed") for product in products[1:]]
    await eu.shop.delete(products[0].product_id)
    created = await eu.shop.create()
    for product in [*changed, created]:
        await everywhere([asia], product)
    # What it holds is served on: first as within the bound, then as older than that.
    assert await us.shows(products[1])
    us.clock.advance(BOUND + 1)
    await until(lambda: us.says_stale(products[1].product_id))
    assert (await us.shop.get(products[1].product_id)).product == products[1]
    assert not await asia.says_stale(changed[0].product_id)
    await way.heal()
    for product in [*changed, created]:
        await everywhere([us], product)
    await until(lambda: is_gone(us, products[0].product_id))


async def signed(place: Place) -> bool:
    """Says whether the relay has told up to now, as the clock of its region says it."""
    app = place.shop.app
    told = await told_until(RedisWatermarks(inside.connection_of(app), inside.names_of(inside.l2_of(app))))
    return told.get("catalog", 0.0) >= place.clock.now() - 0.01


async def is_gone(place: Place, id: str) -> bool:
    return not place.shop.remembers(id)
