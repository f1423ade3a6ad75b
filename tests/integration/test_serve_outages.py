"""`cache-sidecar serve` while Redis or PostgreSQL is away: it starts, serves what it can, and heals by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc import StatusCode

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Sidecar, process, relaying, serving, settings_for
from tests.support.proxy import Proxy
from tests.support.shop import L1, L2, STORE, Shop, new_id, reads_redis, refused
from tests.support.until import until


@pytest.fixture
async def redis(processes: Processes, choose_ports: ChoosePorts, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A way to a Redis of the test's own, which can be cut."""
    (port,) = choose_ports(1)
    server = ValkeyServer(processes, processes.state.path / f"valkey-{port}", port)
    await server.start()
    async with Proxy(server.address) as proxy:
        yield proxy
    await server.stop()


@pytest.fixture
async def store(postgres: Postgres) -> AsyncIterator[Proxy]:
    """A way to PostgreSQL, which can be cut."""
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        yield proxy


class Started:
    """Starts processes of one shop behind the two proxies."""

    def __init__(self, config: dict[str, Any], choose_ports: ChoosePorts, folder: Path) -> None:
        self._config = config
        self._choose_ports = choose_ports
        self._folder = folder

    @contextlib.asynccontextmanager
    async def sidecar(self) -> AsyncIterator[Shop]:
        address = f"127.0.0.1:{self._choose_ports(1)[0]}"
        config = self._config | {"listen_address": address}
        async with process("serve", self._folder, config) as started, grpc.aio.insecure_channel(address) as channel:
            await serving(address)
            yield Shop(Sidecar(address, channel))
            assert "Traceback" not in started.log.read_text()

    @contextlib.asynccontextmanager
    async def relay(self) -> AsyncIterator[None]:
        async with process("relay", self._folder, self._config) as started:
            yield
            assert started.process.returncode is None
            assert "Traceback" not in started.log.read_text()


@pytest.fixture
def shop_of(redis: Proxy, store: Proxy, database: str, namespace: str, choose_ports: ChoosePorts, tmp_path: Path) -> Started:
    credentials = database.partition("@")[0]
    config = {
        "redis_nodes": redis.address,
        "redis_mode": "single",
        "redis_timeout": 2.0,  # or a busy machine makes them forget
        "postgres_catalog": f"{credentials}@{store.address}/{database.rpartition('/')[2]}",
        "namespace": namespace,
        "postgres_timeout": 1.0,
        "drain_seconds": 1.0,
        "local_admin": True,
    }
    return Started(config, choose_ports, tmp_path)


async def is_from(shop: Shop, id: str, source: int) -> bool:
    try:
        return await shop.source(id) == source
    except grpc.aio.AioRpcError:
        return False


async def test_started_without_redis_it_serves_from_the_store_and_heals(shop_of: Started, redis: Proxy) -> None:
    redis.cut()
    async with shop_of.sidecar() as shop:
        created = await shop.create()
        assert [await shop.source(created.product_id) for _ in range(2)] == [STORE, STORE]
        updated = await shop.update(created.product_id, title="second")
        assert (await shop.get(created.product_id)).product == updated
        await redis.heal()
        await until(lambda: is_from(shop, created.product_id, L1))


async def test_started_without_postgresql_it_serves_what_redis_holds_and_heals(shop_of: Started, store: Proxy) -> None:
    async with shop_of.sidecar() as first:
        kept = await first.create()
    store.cut()
    async with shop_of.sidecar() as shop:
        await until(lambda: is_from(shop, kept.product_id, L1))
        assert (await shop.get(kept.product_id)).product == kept
        for call in (shop.get(new_id()), shop.create(), shop.get(kept.product_id, bypass=True)):
            assert (await refused(call)).code == StatusCode.UNAVAILABLE
        await store.heal()
        await until(lambda: can_write(shop, kept.product_id))


async def test_started_without_either_it_is_there_and_heals(shop_of: Started, redis: Proxy, store: Proxy) -> None:
    redis.cut()
    store.cut()
    async with shop_of.sidecar() as shop:
        refusal = await refused(shop.get("x"))
        assert (refusal.code, refusal.metadata) == (StatusCode.UNAVAILABLE, {"tier": "PostgreSQL"})
        await store.heal()
        await redis.heal()
        await until(lambda: can_write(shop, ""))
        id = (await shop.create()).product_id
        await until(lambda: is_from(shop, id, L1))


async def can_write(shop: Shop, id: str) -> bool:
    try:
        await (shop.update(id, title="healed") if id else shop.create())
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_while_redis_is_away_reads_go_on_and_writes_reach_everybody_later(shop_of: Started, redis: Proxy) -> None:
    async with shop_of.sidecar() as first, shop_of.sidecar() as second, shop_of.relay():
        ids = [(await first.create()).product_id for _ in range(20)]
        for shop in (first, second):
            await until(lambda shop=shop: is_from(shop, ids[0], L1))
            for id in ids:
                await shop.get(id)
        redis.cut()
        updated = {id: await first.update(id, title="while Redis was away") for id in ids}
        for id in ids:
            assert (await first.get(id)).product == updated[id], "who wrote reads its own write"
        await first.delete(ids[-1])
        await redis.heal()
        for id in ids[:-1]:
            await until(lambda id=id: sees(second, updated[id]))
        await until(lambda: is_gone(second, ids[-1]))
        await until(lambda: is_from(second, ids[0], L1))
        assert (await second.get(ids[0])).product == updated[ids[0]]


async def sees(shop: Shop, wanted: Any) -> bool:
    return (await shop.get(wanted.product_id)).product == wanted


async def is_gone(shop: Shop, id: str) -> bool:
    try:
        await shop.get(id)
    except grpc.aio.AioRpcError as error:
        return error.code() == StatusCode.NOT_FOUND
    return False


async def test_while_postgresql_is_away_cached_reads_go_on_and_writes_are_unavailable(
    shop_of: Started, store: Proxy, redis: Proxy, database: str, namespace: str
) -> None:
    marks = relaying(settings_for(redis.address, database, namespace, redis_mode="single"))
    async with marks, shop_of.sidecar() as shop, shop_of.sidecar() as other:
        for one in (shop, other):
            await until(lambda one=one: reads_redis(one))
        hot, warm = [(await shop.create()).product_id for _ in range(2)]
        await until(lambda: is_from(shop, hot, L1))
        assert await other.source(warm) == L2
        store.cut()
        for _ in range(50):
            assert await shop.source(hot) == L1
        assert await shop.source(warm) == L2
        age = (await shop.get(hot)).cache.age.ToNanoseconds()
        for call in (shop.update(hot, title="x"), shop.create(), shop.delete(hot), shop.get(new_id())):
            refusal = await refused(call)
            assert (refusal.code, refusal.retry_after) == (StatusCode.UNAVAILABLE, 1.0)
        # By now the sidecar knows: a hundred writes are refused while one would have to wait for its time to run out.
        refusals = await asyncio.wait_for(asyncio.gather(*(refused(shop.create()) for _ in range(100))), 20)
        assert {refusal.code for refusal in refusals} == {StatusCode.UNAVAILABLE}
        assert await shop.source(hot) == L1
        assert (await shop.get(hot)).cache.age.ToNanoseconds() > age, "it says how old it is"
        await store.heal()
        await until(lambda: can_write(shop, hot))
        await until(lambda: is_titled(other, hot, "healed"))


async def test_while_postgresql_is_away_lists_go_on(
    shop_of: Started, store: Proxy, redis: Proxy, database: str, namespace: str
) -> None:
    marks = relaying(settings_for(redis.address, database, namespace, redis_mode="single"))
    async with marks, shop_of.sidecar() as shop, shop_of.sidecar() as other:
        for one in (shop, other):
            await until(lambda one=one: reads_redis(one))
        for n in range(3):
            await shop.create(f"p{n}", categories=["x"])
        request = pb.ListProductsRequest(category="x", order=pb.PRODUCT_ORDER_PRICE, page_size=2)
        await until(lambda: lists_from(shop, request, L1))
        assert (await shop.products.GetCategories(pb.GetCategoriesRequest())).categories[0].product_count == 3
        store.cut()
        for _ in range(20):
            assert await lists_from(shop, request, L1)
        assert await lists_from(other, request, L2)
        assert (await other.products.GetCategories(pb.GetCategoriesRequest())).cache.source == L2
        await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="product", ids=["p1"]))
        reply = await shop.products.ListProducts(request)
        assert [product.product_id for product in reply.products] == ["p0"], "what no tier has is left out"
        assert reply.cache.stale
        assert reply.next_page_token
        elsewhere = await refused(shop.products.ListProducts(pb.ListProductsRequest(category="y")))
        assert elsewhere.code == StatusCode.UNAVAILABLE
        await store.heal()
        await until(lambda: is_whole(shop, request))


async def lists_from(shop: Shop, request: pb.ListProductsRequest, source: int) -> bool:
    reply = await shop.products.ListProducts(request)
    return bool(reply.cache.source == source and [product.product_id for product in reply.products] == ["p0", "p1"])


async def is_whole(shop: Shop, request: pb.ListProductsRequest) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        reply = await shop.products.ListProducts(request)
        return len(reply.products) == 2 and not reply.cache.stale
    return False


async def is_titled(shop: Shop, id: str, title: str) -> bool:
    return (await shop.get(id)).product.title == title


async def test_a_dead_connection_costs_no_read(shop_of: Started, database: str) -> None:
    async with shop_of.sidecar() as shop:
        id = (await shop.create()).product_id
        for _ in range(3):
            async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
                await connection.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid()"""
                )
            assert await shop.source(id, bypass=True) == STORE
