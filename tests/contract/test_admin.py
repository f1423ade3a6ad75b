"""AdminService: emptying the caches, and looking into them."""

import math
from pathlib import Path

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from cache_sidecar.config import policy
from cache_sidecar.tiers.path import inspector
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.product_service_pb2 import BatchGetProductsRequest
from tests.support import inside
from tests.support.dataset_case import Direct
from tests.support.shop import L1, L2, STORE, Open, Shop, new_id, refused
from tests.support.stockroom import Stockroom, query
from tests.support.until import until


async def tiers(shop: Shop) -> dict[str, pb.TierStats]:
    reply = await shop.admin.GetStats(pb.GetStatsRequest(dataset="product"))
    return {row.tier: row for row in reply.tiers}


async def invalidate(shop: Shop, *ids: str, **fields: object) -> int:
    reply = await shop.admin.Invalidate(pb.InvalidateRequest(**{"dataset": "product", "ids": ids} | fields))
    return int(reply.invalidated)


async def test_named_ids_are_dropped_everywhere_and_read_again(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    dropped, kept = [(await first.create()).product_id for _ in range(2)]
    for shop in shops:
        for id in (dropped, kept):
            await shop.get(id)
    assert await invalidate(first, dropped, dropped, new_id()) == 2, "each id is counted once"
    assert not first.remembers(dropped)
    await until(lambda: not second.remembers(dropped))
    assert await second.source(dropped) == STORE
    assert [await shop.source(kept) for shop in shops] == [L1, L1]


async def test_what_was_dropped_shows_a_change_nobody_told(shop: Shop, shared_database: str) -> None:
    id = (await shop.create()).product_id
    await shop.get(id)
    async with await psycopg.AsyncConnection.connect(shared_database, autocommit=True) as connection:
        await connection.execute("UPDATE cache_sidecar.products SET title = 'by hand' WHERE product_id = %s", [id])
    assert (await shop.get(id)).product.title == "A mug"
    await invalidate(shop, id)
    assert (await shop.get(id)).product.title == "by hand"


async def test_the_stock_of_a_product_is_dropped_in_every_bucket(shops: tuple[Shop, Shop], shared_database: str) -> None:
    first, second = shops
    here, there, id = Stockroom(first.channel), Stockroom(second.channel), new_id()
    await here.set(id, 64, bucket_count=64)
    for room in (here, there):
        assert await room.numbers(id) == (64, 0)
    # No relay tells it.
    await query(shared_database, "UPDATE cache_sidecar.inventory SET available = 2 WHERE product_id = %s AND bucket > 0", id)
    assert await here.numbers(id) == (64, 0)
    assert await invalidate(first, id, dataset="inventory") == 1
    assert await here.numbers(id) == (127, 0)
    await until(lambda: _has(there, id, 127))


async def _has(room: Stockroom, id: str, available: int) -> bool:
    return (await room.numbers(id))[0] == available


async def test_everything_is_dropped_everywhere(open_shop: Open) -> None:
    async with open_shop() as first, open_shop() as second:
        ids = [(await first.create(f"p{number}")).product_id for number in range(300)]
        for shop in (first, second):
            await shop.products.BatchGetProducts(BatchGetProductsRequest(product_ids=ids))
        assert await invalidate(first, all=True) == 300
        await until(lambda: not any(second.remembers(id) for id in ids))
        assert (await tiers(first))["l1"].entries == 300, "dropped entries are dead, not yet gone"
        reply = await first.products.BatchGetProducts(BatchGetProductsRequest(product_ids=ids))
        assert {cache.source for cache in reply.product_caches} == {STORE}
        assert await invalidate(second, all=True) > 0


async def test_dropping_everything_of_one_namespace_leaves_the_others(open_shop: Open) -> None:
    async with open_shop() as shop, open_shop(namespace="other_shop") as other:
        id = (await shop.create()).product_id
        await other.get(id)
        await invalidate(shop, all=True)
        assert await other.source(id) == L1


async def test_ten_thousand_ids_are_dropped_in_one_call(open_shop: Open) -> None:
    async with open_shop() as shop:
        id = (await shop.create("p7")).product_id
        await shop.get(id)
        assert await invalidate(shop, *(f"p{number}" for number in range(10_000))) == 10_000
        assert await shop.source(id) == STORE


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dataset": "sessions", "all": True}, {"dataset"}),
        ({"dataset": "", "all": True}, {"dataset"}),
        ({"dataset": "product"}, {"all", "ids"}),
        ({"dataset": "product", "ids": ["a"], "all": True}, {"all", "ids"}),
        ({"dataset": "product", "ids": [""]}, {"ids[0]"}),
        ({"dataset": "product", "ids": ["a", "b" * 129]}, {"ids[1]"}),
        ({"dataset": "product", "ids": ["a"] * 10_001}, {"ids"}),
    ],
)
async def test_a_target_that_makes_no_sense_is_refused(shop: Shop, fields: dict, named: set[str]) -> None:
    refusal = await refused(shop.admin.Invalidate(pb.InvalidateRequest(**fields)))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == named


@pytest.mark.parametrize("id", ["\x00", "a\x00b", "a b\n", "{}", "é\x7f"])
async def test_any_id_can_be_dropped(shop: Shop, id: str) -> None:
    assert await invalidate(shop, id) == 1


async def test_without_redis_only_this_memory_is_emptied_and_the_caller_is_told(open_shop: Open) -> None:
    async with open_shop(redis="127.0.0.1:1", trusted=False) as shop:
        for fields in ({"ids": ["a"]}, {"all": True}):
            refusal = await refused(shop.admin.Invalidate(pb.InvalidateRequest(dataset="product", **fields)))
            assert refusal.code == StatusCode.UNAVAILABLE
            assert (refusal.reason, refusal.metadata, refusal.retry_after) == ("TIER_UNAVAILABLE", {"tier": "Redis"}, 1.0)


async def test_the_counters_say_which_tier_answered(open_shop: Open) -> None:
    async with open_shop() as first, open_shop() as second:
        id = (await first.create()).product_id
        assert [await second.source(id) for _ in range(3)] == [L2, L1, L1]
        assert await second.source(id, bypass=True) == STORE
        await refused(second.get("nothing"))
        stats = await tiers(second)
        assert (stats["l1"].hits, stats["l1"].misses, stats["l1"].fills) == (2, 3, 3)
        assert (stats["l2"].hits, stats["l2"].misses, stats["l2"].loads) == (1, 1, 2)
        assert (stats["store"].hits, stats["store"].loads) == (2, 2)
        assert stats["l1"].entries == 2
        assert 400 < stats["l1"].bytes < 4000
        assert sum(row.errors for row in stats.values()) == 0


async def test_evictions_are_counted_and_bounds_kept(open_shop: Open) -> None:
    # Of which products have 10: other datasets are kept in memory, too.
    async with open_shop(l1_max_entries=12) as shop:
        for number in range(25):
            await shop.create(f"p{number}")
            await shop.get(f"p{number}")
        stats = (await tiers(shop))["l1"]
        assert (stats.entries, stats.evictions) == (10, 15)
        assert await shop.source("p24") == L1
        assert await shop.source("p0") == L2


async def test_a_change_that_nobody_told_is_found_by_the_inspector(
    open_shop: Open, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no relay here, so plain SQL stays unheard."""
    monkeypatch.setattr(inspector, "EVERY", 0.01)
    (tmp_path / "policy.toml").write_text("[product]\ninspect_every = 1\nstaleness_bound = 0.5\n")
    async with open_shop(policy_file=str(tmp_path / "policy.toml")) as shop:

        async def counted() -> pb.InspectionStats:
            (found,) = (await shop.admin.GetStats(pb.GetStatsRequest(dataset="product"))).inspections
            return found

        async def is_fresh() -> bool:
            await shop.get(id)
            return (await counted()).fresh > 0

        async def is_violated() -> bool:
            await shop.get(id)
            return (await counted()).violations > 0

        id = (await shop.create()).product_id
        await until(is_fresh)
        assert (await counted()).violations == 0
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            await connection.execute("UPDATE cache_sidecar.products SET title = 'by hand'")
        await until(is_violated)
        assert (await shop.admin.GetStats(pb.GetStatsRequest(dataset="cart"))).inspections == []


async def test_stats_of_everything_and_of_nothing_known(shop: Shop) -> None:
    every = await shop.admin.GetStats(pb.GetStatsRequest())
    assert {"l1", "l2", "store"} == {row.tier for row in every.tiers if row.dataset == "product"}
    refusal = await refused(shop.admin.GetStats(pb.GetStatsRequest(dataset="nothing")))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert "product" in refusal.violations["dataset"]


async def test_the_policy_in_force_is_shown(open_shop: Open, exact_policy: str, shop: Shop) -> None:
    def row(reply: pb.GetPolicyResponse) -> pb.DatasetPolicy:
        (found,) = [row for row in reply.datasets if row.dataset == "product"]
        return found

    built_in = policy.default()["product"]
    shown = row(await shop.admin.GetPolicy(pb.GetPolicyRequest()))
    for name, value in built_in.model_dump().items():
        found = getattr(shown, name)
        found = found.ToNanoseconds() / 1e9 if isinstance(found, Duration) else found
        assert found == value if isinstance(value, str) else math.isclose(found, value), name
    async with open_shop(policy_file=exact_policy) as other:
        shown = row(await other.admin.GetPolicy(pb.GetPolicyRequest()))
        assert (shown.l1_hard_ttl.seconds, shown.jitter, shown.negative_ttl.seconds) == (200, 0, 10)


async def test_what_is_no_record_is_counted_where_it_was_found(open_shop: Open) -> None:
    async with open_shop() as shop:
        id = (await shop.create()).product_id
        l2 = inside.l2_of(inside.dataset(shop.app, "product"))
        await Direct(l2).set(inside.names_of(l2).key("product", id), b"somebody else's")
        inside.l1_of(inside.dataset(shop.app, "product")).drop(id, 0)
        assert (await shop.get(id)).product.product_id == id
        assert {tier: row.unreadable for tier, row in (await tiers(shop)).items()} == {"l1": 0, "l2": 1, "store": 0}
