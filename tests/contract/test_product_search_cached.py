"""SearchProducts from the caches: two sidecars and a relay, on a clock that the tests move."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest

from cache_sidecar.config.policy import default
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay.product_search import ProductIndex
from cache_sidecar.store import product_search as store
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.product_search import Found, ProductSearchStore, Search
from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from tests.support.acl import allow
from tests.support.clocks import ManualClock
from tests.support.databases import RELAY, as_role, open_database
from tests.support.gates import Gate
from tests.support.launch import PATIENT, in_process, settings_for
from tests.support.proxy import Proxy
from tests.support.shop import L1, L2, STORE, Shop, admitted, refused
from tests.support.until import until

POLICY = default()["product_search"]


class Ground:
    """Two sidecars, what relays do for searches, and the searches that reached PostgreSQL."""

    def __init__(self, first: Shop, second: Shop, database: Any, clock: ManualClock, postgres: Proxy) -> None:
        self.first, self.second, self.clock, self.postgres = first, second, clock, postgres
        self._database = database
        self.searched: list[Search] = []
        self.gate = Gate()
        "What each search passes before it reaches PostgreSQL."

    async def index(self) -> None:
        await Outbox(self._database).sequence()
        await ProductIndex(ProductSearchStore(self._database)).step()


@pytest.fixture
async def ground(
    valkey_cluster: ValkeyCluster,
    postgres: Postgres,
    database: str,
    namespace: str,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Ground]:
    clock = ManualClock()
    user = await allow(valkey_cluster, namespace)
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy, open_database(as_role(RELAY, database)) as indexing:
        behind = f"{database.partition('@')[0]}@{proxy.address}/{database.rpartition('/')[2]}"
        options = user | PATIENT | {"engine": engine}
        settings = settings_for(",".join(valkey_cluster.addresses), behind, namespace, **options)
        async with in_process(settings, clock=clock) as first, in_process(settings, clock=clock) as second:
            made = Ground(Shop(first), Shop(second), indexing, clock, proxy)
            find = ProductSearchStore.find

            async def find_noted(self: ProductSearchStore, search: Search) -> Found:
                made.searched.append(search)
                await made.gate.passed()
                return await find(self, search)

            monkeypatch.setattr(ProductSearchStore, "find", find_noted)
            yield made


async def search(shop: Shop, query: str = "mug", **fields: Any) -> pb.SearchProductsResponse:
    request = pb.SearchProductsRequest(query=query, **fields)
    reply: pb.SearchProductsResponse = await admitted(lambda: shop.products.SearchProducts(request))
    return reply


async def ids(shop: Shop, query: str = "mug", **fields: Any) -> list[str]:
    return [product.product_id for product in (await search(shop, query, **fields)).products]


async def test_equal_searches_at_once_are_one_statement(ground: Ground) -> None:
    for n in range(3):
        await ground.first.create(f"p{n}", title="A red mug", categories=["x", "y"])
    await ground.index()
    ground.gate.close()
    ways = [
        {"query": "red mug", "categories": ["x", "y"], "facets": ["brand", "categories"]},
        {"query": " RED  mug", "categories": ["y", "x", "y"], "facets": ["categories", "brand"], "page_size": 2},
    ]
    callers = [asyncio.create_task(search(ground.first, **ways[n % 2])) for n in range(200)]
    await ground.gate.reached()
    ground.gate.open()
    replies = await asyncio.gather(*callers)
    assert {reply.total_size for reply in replies} == {3}
    assert {len(reply.products) for reply in replies} == {2, 3}
    assert [facet.name for facet in replies[1].facets] == ["categories", "brand"], "in the order of each request"
    assert len(ground.searched) == 1

    async def is_in_redis() -> bool:
        return (await search(ground.second, **ways[0])).cache.source in {L1, L2}

    await until(is_in_redis)
    assert len(ground.searched) <= 2, "that was filled behind the reply"


async def test_results_expire_and_no_change_invalidates_them(ground: Ground) -> None:
    await ground.first.create("p", title="A red mug")
    await ground.index()
    assert await ids(ground.first) == ["p"]
    assert await ids(ground.first, "none") == []
    await ground.first.create("q", title="A blue mug")
    await ground.first.create("r", title="None of them")
    await ground.index()
    found = len(ground.searched)
    assert await ids(ground.first) == ["p"]
    assert await ids(ground.first, "none") == [], "also that nothing is found is remembered"
    assert len(ground.searched) == found
    assert await ids(ground.first, options=ReadOptions(bypass=True)) == ["p", "q"]
    assert await ids(ground.first) == ["p", "q"], "which filled the caches"
    ground.clock.advance(POLICY.l1_hard_ttl + POLICY.l2_ttl * (1 + POLICY.jitter) + 1)
    assert await ids(ground.first, "none") == ["r"]
    reply = await search(ground.first, options=ReadOptions(max_age={"seconds": 0}))
    assert reply.cache.source == STORE


async def test_products_are_as_they_are_now(ground: Ground) -> None:
    for n in range(3):
        await ground.first.create(f"p{n}", title="A mug")
    await ground.index()
    assert await ids(ground.first) == ["p0", "p1", "p2"]
    await ground.first.update("p0", title="A cup")
    await ground.first.update("p1", "active", active=False)
    await ground.first.delete("p2")
    reply = await search(ground.first)
    assert [(product.product_id, product.title) for product in reply.products] == [("p0", "A cup")]
    assert reply.total_size == 3, "as of the search"
    assert not reply.next_page_token


async def test_while_postgresql_is_away_expired_results_are_stale_for_a_while(ground: Ground) -> None:
    await ground.first.create("p", title="A mug")
    await ground.index()
    assert await ids(ground.first) == ["p"]
    ground.postgres.cut()
    ground.clock.advance(POLICY.l1_hard_ttl + POLICY.l2_ttl * (1 + POLICY.jitter) + 1)
    reply = await search(ground.first)
    assert ([product.product_id for product in reply.products], reply.cache.stale) == (["p"], True)
    found = await refused(search(ground.first, "other"))
    assert (found.code, found.retry_after) == (grpc.StatusCode.UNAVAILABLE, 1.0)
    ground.clock.advance(POLICY.stale_limit)
    assert (await refused(search(ground.first))).code is grpc.StatusCode.UNAVAILABLE
    await ground.postgres.heal()

    async def is_back() -> bool:
        ground.clock.advance(1)  # or the breaker stays open
        try:
            return not (await search(ground.first)).cache.stale
        except grpc.aio.AioRpcError:
            return False

    await until(is_back)


async def test_before_products_are_indexed_searches_are_unavailable(ground: Ground) -> None:
    found = await refused(search(ground.first))
    assert (found.code, found.retry_after) == (grpc.StatusCode.UNAVAILABLE, 1.0)
    await ground.index()
    assert await ids(ground.first) == []


async def test_a_slow_search_delays_no_product_and_only_two_run_at_once(ground: Ground) -> None:
    await ground.first.create("p", title="A mug")
    await ground.index()
    ground.gate.close()
    callers = [asyncio.create_task(ids(ground.first, query)) for query in ("mug", "a mug", "mug or cup", "mug or rug")]
    await until(lambda: len(ground.searched) == 2)
    assert await ground.first.source("p", bypass=True) == STORE
    assert len(ground.searched) == 2
    ground.gate.open()
    assert await asyncio.gather(*callers) == [["p"]] * 4


async def test_searches_are_counted_inspected_and_dropped(ground: Ground) -> None:
    await ground.index()
    await ids(ground.first)
    await ids(ground.first)
    stats = await ground.first.admin.GetStats(admin_service_pb2.GetStatsRequest(dataset="product_search"))
    tiers = {tier.tier: tier for tier in stats.tiers}
    assert (tiers["l1"].hits, tiers["store"].loads) == (1, 1)
    await ground.first.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="product_search", all=True))
    await ids(ground.first)
    assert len(ground.searched) == 2
    good = '["","mug","",[],[],"",null,null,[],[]]'
    found = await _inspect(ground.first, good)
    assert found.tiers[-1].state == admin_service_pb2.KEY_STATE_VALUE, "as PostgreSQL has it"
    for id in ("nothing", "[" * 128, good.replace("null", '"x"'), good.replace("[]", "[1]"), good.replace("[]", '["a\'; x"]')):
        await _inspect(ground.first, id)


async def _inspect(shop: Shop, id: str) -> admin_service_pb2.InspectKeyResponse:
    request = admin_service_pb2.InspectKeyRequest(dataset="product_search", id=id)
    reply: admin_service_pb2.InspectKeyResponse = await shop.admin.InspectKey(request)
    return reply


async def test_more_matches_than_are_ranked_are_not_counted(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setattr(store, "MATCHES", 5)
    monkeypatch.setattr("cache_sidecar.services.product_search.MATCHES", 5)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as program:
        await program.execute(
            """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
               SELECT 'p' || n, 'A mug', 1, 'EUR' FROM generate_series(1, 7) AS n"""
        )
    await ground.index()
    reply = await search(ground.first)
    assert (reply.total_size, reply.has_more_matches) == (5, True)
