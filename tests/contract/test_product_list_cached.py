"""ListProducts and GetCategories from the caches: two sidecars and a relay, and a program that changes products in plain SQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from cache_sidecar import verify
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay import process as relay
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.product_list import ProductListStore
from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from tests.support import inside
from tests.support.acl import allow
from tests.support.clocks import ManualClock
from tests.support.databases import SIDECAR, as_role, run
from tests.support.gates import Gate
from tests.support.launch import PATIENT, in_process, rests_on_redis, settings_for
from tests.support.proxy import Proxy
from tests.support.shop import L1, L2, STORE, Open, Shop, new_id
from tests.support.until import until

PRICE = pb.PRODUCT_ORDER_PRICE
# The default `staleness_bound`, in seconds.
BOUND = 10.0


class Ground:
    """Two sidecars, and PostgreSQL as another program sees it."""

    def __init__(self, first: Shop, second: Shop, program: Any, settings: Any) -> None:
        self.first, self.second, self.program, self.settings = first, second, program, settings

    async def sql(self, statement: str, *values: Any) -> None:
        await self.program.execute(statement, values)


@pytest.fixture
async def ground(valkey_cluster: ValkeyCluster, database: str, namespace: str, engine: str) -> AsyncIterator[Ground]:
    user = await allow(valkey_cluster, namespace)
    options = user | PATIENT | {"engine": engine}
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace, **options)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as program:
        stopping = asyncio.Event()
        relaying = asyncio.create_task(relay.run(settings, stopping))
        try:
            async with in_process(settings, relay=False) as first, in_process(settings, relay=False) as second:
                shops = Shop(first), Shop(second)
                await until(lambda: all(rests_on_redis(shop.app) for shop in shops))
                yield Ground(*shops, program, settings)
        finally:
            stopping.set()
            await relaying


async def read(shop: Shop, category: str = "", **fields: Any) -> pb.ListProductsResponse:
    reply: pb.ListProductsResponse = await shop.products.ListProducts(pb.ListProductsRequest(category=category, **fields))
    return reply


async def ids(shop: Shop, category: str = "", **fields: Any) -> list[str]:
    return [product.product_id for product in (await read(shop, category, **fields)).products]


def shows(shop: Shop, wanted: list[str], *args: Any, **fields: Any) -> Callable[[], Awaitable[bool]]:
    async def shown() -> bool:
        return await ids(shop, *args, **fields) == wanted

    return shown


def is_from(shop: Shop, source: int, *args: Any, **fields: Any) -> Callable[[], Awaitable[bool]]:
    async def is_answered() -> bool:
        cache = (await read(shop, *args, **fields)).cache
        return bool(cache.source == source and not cache.stale)

    return is_answered


def version(shop: Shop, list_id: str) -> int:
    """Returns the version of a list in a sidecar's memory; 0 if it has none."""
    entry = inside.l1_of(inside.dataset(shop.app, "product_list")).get(list_id)
    return 0 if entry is None else int(entry.record.version)


async def test_lists_are_answered_from_each_tier_and_fill_the_products(ground: Ground) -> None:
    first, second = ground.first, ground.second
    products = [await first.create(f"p{n}", categories=["x"]) for n in range(3)]
    await until(is_from(first, L1, "x"))
    assert (await read(first, "x")).cache.version == int(products[-1].etag, 16)
    assert (await read(second, "x")).cache.source == L2
    await until(is_from(second, L1, "x"))
    for product in products:
        assert await second.source(product.product_id) == L1, "the list brought it"
    assert (await read(second, "x", options=ReadOptions(bypass=True))).cache.source == STORE
    cache = (await read(second, "x")).cache
    assert cache.age.ToNanoseconds() > 0


async def test_a_change_in_sql_invalidates_the_lists_that_show_it_in_every_memory(ground: Ground) -> None:
    shops = ground.first, ground.second
    for n in range(3):
        await ground.first.create(f"p{n}", categories=["x"], description="a")
    await ground.first.create("other", categories=["y"])
    for shop in shops:
        await until(is_from(shop, L1, "x"))
        await until(is_from(shop, L1, "x", order=PRICE))
        await until(is_from(shop, L1, "y"))
    before = [(version(shop, "members:x"), version(shop, "members:y"), version(shop, "price:x")) for shop in shops]
    await ground.sql("UPDATE cache_sidecar.products SET price_units = 1, description = 'b' WHERE product_id = 'p2'")
    for shop in shops:
        await until(shows(shop, ["p2", "p0", "p1"], "x", order=PRICE))
        await until(is_from(shop, L1, "x", order=PRICE))
        assert await ids(shop, "x") == ["p0", "p1", "p2"]
    for shop, (members_x, members_y, price_x) in zip(shops, before, strict=True):
        assert (version(shop, "members:x"), version(shop, "members:y")) == (members_x, members_y), "still as it was"
        assert version(shop, "price:x") > price_x
    await ground.sql("UPDATE cache_sidecar.products SET categories = '{x,y}' WHERE product_id = 'p0'")
    await ground.sql("UPDATE cache_sidecar.products SET active = false WHERE product_id = 'p1'")
    await ground.sql("DELETE FROM cache_sidecar.products WHERE product_id = 'p2'")
    for shop in shops:
        await until(shows(shop, ["p0"], "x"))
        await until(shows(shop, ["other", "p0"], "y"))


async def test_a_product_that_just_left_is_not_shown(ground: Ground) -> None:
    """Its own change may be known before that of the list."""
    shop = ground.first
    for n in range(2):
        await shop.create(f"p{n}", categories=["x"])
    await until(is_from(shop, L1, "x"))
    lists = inside.dataset(shop.app, "product_list")
    held = [entry.record for id in ("members:x",) if (entry := inside.l1_of(lists).get(id)) is not None]
    await ground.sql("UPDATE cache_sidecar.products SET active = false WHERE product_id = 'p0'")
    await until(shows(shop, ["p1"], "x"))
    # As if the list's change had not arrived: the page of before is read, with the products of now.
    assert held
    inside.l1_of(lists).clear()
    memory = inside.l1_of(lists)
    assert memory.put("members:x", held[0], generation=memory.generation("members:x"), expires_from=held[0].read_at)
    assert version(shop, "members:x") == held[0].version
    assert await ids(shop, "x") == ["p1"]


class Held:
    """Holds the first call of a method of the store at a gate: before it reads PostgreSQL, or with what it has read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, *, before: bool) -> None:
        self.gate = Gate()
        self.gate.close()
        self._method = getattr(ProductListStore, method)
        self._is_first = True
        self._before = before
        held = self

        async def call(store: ProductListStore, *args: Any) -> Any:
            return await held.call(store, *args)

        monkeypatch.setattr(ProductListStore, method, call)

    async def call(self, store: ProductListStore, *args: Any) -> Any:
        is_first, self._is_first = self._is_first, False
        if is_first and self._before:
            await self.gate.passed()
        found = await self._method(store, *args)
        if is_first and not self._before:
            await self.gate.passed()
        return found


async def is_told(ground: Ground, list_id: str) -> bool:
    """Whether the first sidecar has heard of the newest version of a list."""
    cursor = await ground.program.execute("SELECT version FROM cache_sidecar.product_lists WHERE list_id = %s", [list_id])
    (version,) = await cursor.fetchone() or (0,)
    cursor = await ground.program.execute("SELECT FROM cache_sidecar.outbox WHERE position IS NULL")
    lists = inside.dataset(ground.first.app, "product_list")
    return bool(version and not cursor.rowcount and inside.l1_of(lists).newest(list_id) >= version)


@pytest.mark.parametrize(
    ("method", "before", "statement", "list_id", "wanted"),
    [
        (
            "versions",
            False,
            "UPDATE cache_sidecar.products SET price_units = 99 WHERE product_id = 'p0'",
            "price:x",
            ["p1", "p2", "p0"],
        ),
        ("page", True, "UPDATE cache_sidecar.products SET active = false WHERE product_id = 'p0'", "members:x", ["p1", "p2"]),
        ("page", False, "DELETE FROM cache_sidecar.products WHERE product_id = 'p1'", "members:x", ["p0", "p2"]),
    ],
    ids=["moves", "leaves", "is deleted"],
)
async def test_what_is_loaded_while_a_list_changes_is_read_by_nobody_afterwards(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, method: str, before: bool, statement: str, list_id: str, wanted: list[str]
) -> None:
    for n in range(3):
        await ground.first.create(f"p{n}", categories=["x"])
    held = Held(monkeypatch, method, before=before)
    reading = asyncio.create_task(ids(ground.first, "x", order=PRICE))
    await held.gate.reached()
    await ground.sql(statement)
    await until(lambda: is_told(ground, list_id))
    held.gate.open()
    assert set(await reading) <= {"p0", "p1", "p2"}
    for shop in (ground.first, ground.second):
        for _ in range(2):
            assert await ids(shop, "x", order=PRICE) == wanted
        await until(is_from(shop, L1, "x", order=PRICE))
        assert await ids(shop, "x", order=PRICE) == wanted


async def test_of_pages_that_follow_each_other_none_lacks_or_repeats_what_stayed(ground: Ground) -> None:
    await ground.sql(
        """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code, categories, rank)
           SELECT 'p' || n, 'A mug ' || mod(n, 3), mod(n, 4), 'EUR', '{x}', nullif(mod(n, 5), 4) FROM generate_series(10, 39) AS n"""
    )
    found: list[str] = []
    token, number = "", 0
    while True:
        reply = await read(
            (ground.first, ground.second)[number % 2], "x", order=pb.PRODUCT_ORDER_RANK, page_size=4, page_token=token
        )
        found += [product.product_id for product in reply.products]
        if not (token := reply.next_page_token):
            break
        number += 1
        await ground.sql(
            """UPDATE cache_sidecar.products SET price_units = price_units + 7, title = 'B', rank = 9, active = NOT active,
                   create_time = now() WHERE product_id > %s AND product_id LIKE '%%5' OR product_id = %s""",
            f"p{number}",
            f"p{number}8",
        )
    stayed = {f"p{n}" for n in range(10, 40) if n % 10 not in {5, 8}}
    assert sorted(id for id in found if id in stayed) == sorted(stayed)


async def test_an_import_s_backlog_delays_no_change_and_the_caller_sees_it_all_the_same(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions for an import of 100,000 products take seconds."""
    shop = ground.first
    await shop.create("p", categories=["x"])
    await until(is_from(shop, L1, "x"))
    rounds, sequence_some = [], Outbox.sequence_some

    async def is_behind(outbox: Outbox) -> bool:
        rounds.append(await sequence_some(outbox))
        return False

    monkeypatch.setattr(Outbox, "sequence_some", is_behind)
    await shop.update("p", "active", active=False)
    assert len(rounds) == 1
    assert await ids(shop, "x") == []


async def test_a_caller_sees_its_own_changes_in_lists(ground: Ground) -> None:
    shop = ground.first
    category = new_id("category")
    for round in range(3):
        id = (await shop.create(f"p{round}", categories=[category])).product_id
        assert await ids(shop, category) == [id]
        assert (await shop.products.GetCategories(pb.GetCategoriesRequest())).categories[0].category == category
        await shop.update(id, "active", active=False)
        assert await ids(shop, category) == []
        await shop.update(id, "active", active=True)
        assert await ids(shop, category) == [id]
        await shop.delete(id)
        assert await ids(shop, category) == []
        assert not (await shop.products.GetCategories(pb.GetCategoriesRequest())).categories


async def test_a_rank_that_is_set_by_a_call_moves_the_product_in_every_memory(ground: Ground) -> None:
    rank = {"order": pb.PRODUCT_ORDER_RANK}
    for id, place in (("a", 1.0), ("b", 2.0), ("c", None)):
        await ground.first.create(id, categories=["x"], rank=place)
    for shop in (ground.first, ground.second):
        await until(shows(shop, ["a", "b", "c"], "x", **rank))
        await until(is_from(shop, L1, "x", **rank))
    await ground.first.update("c", rank=0.0)
    assert await ids(ground.first, "x", **rank) == ["c", "a", "b"], "its caller sees it at once"
    await until(shows(ground.second, ["c", "a", "b"], "x", **rank))
    await ground.second.update("a", "rank")
    assert await ids(ground.second, "x", **rank) == ["c", "b", "a"], "without one it is the last"
    await until(shows(ground.first, ["c", "b", "a"], "x", **rank))


async def test_lists_that_postgresql_cannot_keep_are_marked_stale_beyond_their_bound(open_shop: Open, database: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock) as shop:
        await shop.create("a", categories=["x"])
        await until(is_from(shop, L1, "x"))
        await run(database, "UPDATE cache_sidecar.product_list_state SET failure = 'broken', next_try = 'infinity'")
        for seconds, is_stale in ((BOUND / 2, False), (BOUND / 2, False), (0.1, True), (BOUND, True)):
            clock.advance(seconds)
            cache = (await read(shop, "x")).cache
            assert (cache.source, cache.stale) == (L1, is_stale)
        assert not (await shop.get("a")).cache.stale, "products are not"
        await run(database, "UPDATE cache_sidecar.product_list_state SET failure = '', next_try = 'epoch'")
        clock.advance(BOUND / 2)
        assert not (await read(shop, "x")).cache.stale


async def test_a_postgresql_that_hangs_delays_no_list_in_memory(open_shop: Open, database: str) -> None:
    clock, dsn = ManualClock(), as_role(SIDECAR, database)
    address = urlsplit(dsn).netloc.rpartition("@")[2]
    async with (
        Proxy(address) as proxy,
        open_shop(clock=clock, postgres=dsn.replace(address, proxy.address), postgres_timeout=60.0) as shop,
    ):
        await shop.create("a", categories=["x"])
        await until(is_from(shop, L1, "x"))
        proxy.stall()
        # It is asked meanwhile, and will not answer before they are answered.
        for _ in range(3):
            clock.advance(BOUND / 4)
            replies = await asyncio.gather(*(read(shop, "x") for _ in range(5)))
            assert {reply.cache.source for reply in replies} == {L1}
        await proxy.heal()


async def test_they_are_counted_and_verified(ground: Ground) -> None:
    shop = ground.first
    await shop.create("p", categories=["x"])
    for _ in range(3):
        await until(is_from(shop, L1, "x"))
    for name in ("product_list", "product_page"):
        stats = await shop.admin.GetStats(admin_service_pb2.GetStatsRequest(dataset=name))
        tiers = {tier.tier: tier for tier in stats.tiers}
        assert tiers["l1"].hits >= 2
        assert tiers["store"].loads >= 1

    async def at_once(_: float) -> None:
        pass

    reports = await verify.verify(ground.settings, ["product_list", "product_page"], progress=lambda *_: None, wait=at_once)
    for report in reports:
        assert report.found[verify.Verdict.SAME] >= 1
        assert not report.overdue
