"""WatchInventory: first the stock as it is, then each change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import StatusCode

from cache_sidecar.inventory import watch as inventory_watch
from cache_sidecar.inventory.stock import ProductStock, StockReader
from cache_sidecar.inventory.watch import Started, Watcher, Watches
from cache_sidecar.services.inventory_messages import whole_loader
from cache_sidecar.store.inventory import InventoryStore, row_ids
from cache_sidecar.tiers.ports import PARTITIONS, Answer, Source
from cache_sidecar.v1 import inventory_service_pb2 as pb
from tests.support import inside
from tests.support.shop import Open, Shop, new_id, refused
from tests.support.stockroom import Stockroom, database_of, query
from tests.support.until import until


class Watching:
    """Reads a watch to its end."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.seen: list[pb.WatchInventoryResponse] = []
        self.started: pb.WatchInventoryResponse | None = None
        "Its first message."
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        async for reply in self.call:
            assert bool(reply.product_id) == (self.started is not None), "it begins with one of no product"
            if self.started is None:
                self.started = reply
            else:
                self.seen.append(reply)

    def last(self, product_id: str) -> tuple[int, int] | None:
        """Returns the newest numbers of a product; None when it has no stock."""
        reply = [one for one in self.seen if one.product_id == product_id][-1]
        return (reply.inventory.available, reply.inventory.reserved) if reply.HasField("inventory") else None

    def ids(self) -> list[str]:
        """Returns whose states came."""
        return [reply.product_id for reply in self.seen]

    async def until_last(self, product_id: str, numbers: tuple[int, int] | None) -> None:
        """Waits for a state."""
        await until(lambda: product_id in self.ids() and self.last(product_id) == numbers)

    async def close(self) -> None:
        """Ends it."""
        self.call.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def watching(room: Stockroom, **wanted: Any) -> AsyncIterator[Watching]:
    watch = Watching(room.calls.WatchInventory(pb.WatchInventoryRequest(**wanted)))
    try:
        yield watch
    finally:
        await watch.close()


async def test_first_what_is_then_each_change_in_order(stock: Stockroom, other: Stockroom) -> None:
    id, none = new_id(), new_id()
    await stock.set(id, 5)
    async with watching(other, product_ids=[id, none, id]) as watch:
        await until(lambda: sorted(watch.ids()) == sorted([id, none]))
        assert (watch.last(id), watch.last(none)) == ((5, 0), None)
        held = await stock.reserve({id: 2})
        await watch.until_last(id, (3, 2))
        await stock.commit(held.reservation_id)
        await watch.until_last(id, (3, 0))
        await stock.set(none, 1)
        await watch.until_last(none, (1, 0))
        for product_id in (id, none):
            versions = [one.cache.version for one in watch.seen if one.product_id == product_id]
            assert versions == sorted(set(versions))


async def test_a_burst_ends_in_the_newest_state_and_no_state_comes_twice(stock: Stockroom, other: Stockroom) -> None:
    id = new_id()
    await stock.set(id, 0, bucket_count=3)
    async with watching(other, product_ids=[id]) as watch:
        await until(lambda: watch.seen)
        for available in range(1, 51):
            await (stock, other)[available % 2].adjust(id, 1)
        await watch.until_last(id, (50, 0))
        states = [(one.inventory.available, one.inventory.etag) for one in watch.seen]
        assert len(states) == len(set(states)) <= 51 * 3


async def test_a_slow_reader_gets_the_newest_state(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        room, ids = Stockroom(shop.channel), [new_id() for _ in range(3)]
        for id in ids:
            await room.set(id, 0)
        assert shop.sidecar.app is not None
        store = InventoryStore(shop.sidecar.app.store("catalog").database)
        dataset = inside.dataset(shop.sidecar.app, "inventory")
        stocks = StockReader(dataset, row_ids=row_ids, load_whole=whole_loader(store))
        watches = Watches(stocks, store)
        states = watches.watch(ids, ())
        assert isinstance(await anext(states), Started)
        assert {(await anext(states))[0] for _ in ids} == set(ids)
        # Nobody asks for the next state from here on, as when no buffer takes any more.
        for available in range(1, 21):
            for id in ids:
                await room.set(id, available)
                ((version,),) = await query(database, "SELECT version FROM cache_sidecar.inventory WHERE id = %s", id)
                watches.on_invalidate(id, version)
        assert {(id, total.available) for id, total in [await anext(states) for _ in ids]} == {(id, 20) for id in ids}
        await states.aclose()  # type: ignore[attr-defined]  # a generator


async def test_products_of_categories_are_watched_also_those_that_come_later(shop: Shop, shops: tuple[Shop, Shop]) -> None:
    room, category = Stockroom(shops[1].channel), new_id("category")
    first = (await shop.create(categories=["x", category])).product_id
    unstocked = (await shop.create(categories=[category])).product_id
    elsewhere = (await shop.create(categories=["x"])).product_id
    extra = new_id("extra")
    for id in (first, elsewhere, extra):
        await room.set(id, 1)
    async with watching(room, categories=[category], product_ids=[extra]) as watch:
        await until(lambda: sorted(watch.ids()) == sorted([first, extra]))
        later = (await shop.create(categories=[category])).product_id
        for number, id in enumerate((elsewhere, unstocked, later, first, extra)):
            await room.set(id, 10 + number)
        for number, id in enumerate((unstocked, later, first, extra), 1):
            await watch.until_last(id, (10 + number, 0))
        assert elsewhere not in watch.ids()


async def test_a_stock_that_is_deleted_by_another_program(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        room, id = Stockroom(shop.channel), new_id()
        await room.set(id, 4)
        async with watching(room, product_ids=[id]) as watch:
            await watch.until_last(id, (4, 0))
            await query(database, "DELETE FROM cache_sidecar.inventory WHERE product_id = %s", id)
            from cache_sidecar.v1 import admin_service_pb2  # noqa: PLC0415

            # As the relay would.
            await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="inventory", ids=[id]))
            await watch.until_last(id, None)
            await room.set(id, 9)
            await watch.until_last(id, (9, 0))
            versions = [reply.cache.version for reply in watch.seen]
            assert len(versions) == 3
            assert versions == sorted(set(versions))


async def test_without_redis_changes_are_seen_by_looking(
    open_shop: Open, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory_watch, "POLL", 0.02)
    async with open_shop(redis="127.0.0.1:1", redis_mode="single", trusted=False) as shop:
        room, id = Stockroom(shop.channel), new_id()
        await room.set(id, 4)
        async with watching(room, product_ids=[id]) as watch:
            await watch.until_last(id, (4, 0))
            await query(database, "UPDATE cache_sidecar.inventory SET available = 3 WHERE product_id = %s", id)
            await watch.until_last(id, (3, 0))
            assert [one.inventory.available for one in watch.seen] == [4, 3]


async def test_a_watch_that_cannot_begin_says_so(open_shop: Open) -> None:
    async with open_shop(
        redis="127.0.0.1:1",
        redis_mode="single",
        postgres="postgresql://nobody@127.0.0.1:1/none",
        postgres_timeout=0.5,
        trusted=False,
    ) as shop:
        room = Stockroom(shop.channel)
        call = room.calls.WatchInventory(pb.WatchInventoryRequest(product_ids=["a"]))
        assert (await refused(call.read())).code is StatusCode.UNAVAILABLE


def _total(version: int, *numbers: int) -> ProductStock:
    from cache_sidecar.inventory.stock import Bucket, BucketRecord  # noqa: PLC0415

    parts = [Bucket("a", BucketRecord(available, 0, 1, 0, 0, version, 0), version) for available in numbers]
    return ProductStock(parts, [Answer(b"" if parts else None, Source.L2, version, 0.0, stale=False)])


@pytest.mark.parametrize(
    ("sent", "found", "wanted"),
    [
        (None, _total(0), True),
        (None, _total(3, 5), True),
        (_total(3, 5), _total(3, 5), False),
        (_total(3, 5), _total(2, 6), False),
        (_total(3, 5), _total(4, 6), True),
        (_total(3, 5), _total(0), True),
        (_total(0), _total(0), False),
        (_total(0), _total(4, 0), True),
    ],
)
def test_what_is_news(sent: ProductStock | None, found: ProductStock, wanted: bool) -> None:
    assert inside.is_news(inventory_watch, found, sent) is wanted


async def test_too_much_news_to_remember_means_looking_at_everything(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setattr(inventory_watch, "MAX_PENDING", 2)
    async with database_of(database) as opened:
        store = InventoryStore(opened)
        watcher = Watcher((), ["c"], reader=StockReader(None, row_ids=lambda *_: [], load_whole=None), store=store)  # type: ignore[arg-type]
        assert [state async for state in watcher.read_news()] == []
        for id in ("a", "a", "b"):
            watcher.add(id, 1)
        assert (inside.pending_of(watcher), inside.all_of(watcher)) == ({"a": 1, "b": 1}, False)
        watcher.add("c", 1)
        assert (inside.pending_of(watcher), inside.all_of(watcher)) == ({}, True)


async def test_trust_that_ends_makes_every_watcher_look(database: str) -> None:
    async with database_of(database) as opened:
        watches = Watches(StockReader(None, row_ids=lambda *_: [], load_whole=None), InventoryStore(opened))  # type: ignore[arg-type]
        assert len(inside.untrusted_of(watches)) == PARTITIONS
        watcher = Watcher(["a"], (), reader=watches._reader, store=inside.store_of(watches))
        inside.watchers_of(watches).add(watcher)
        watches.on_lease_change(7, True)
        assert len(inside.untrusted_of(watches)) == PARTITIONS - 1
        inside.set_all(watcher, False)
        watches.on_lease_change(7, False)
        assert inside.all_of(watcher)
        inside.set_all(watcher, False)
        watches.on_partition_reset(3)
        assert inside.all_of(watcher)
