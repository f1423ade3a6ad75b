"""One version per state of a stock, and no part of a stock that passes for the whole, whatever Redis lost or was not told."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from functools import partial

import psycopg
import pytest
from redis.asyncio import Redis

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.store.inventory import row_ids
from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from tests.contract.test_inventory_watch import watching
from tests.support import inside
from tests.support.dataset_case import Direct
from tests.support.free_ports import ChoosePorts
from tests.support.shop import STORE, Open, Shop
from tests.support.stockroom import Stockroom, query
from tests.support.until import until

TAKE = "UPDATE cache_sidecar.inventory SET available = available - %s WHERE product_id = 'a' AND bucket = %s"


async def tell(shop: Shop, dsn: str, ids: Sequence[str]) -> None:
    """Tells Redis, and this sidecar, that rows have changed; of those that are gone, some later version than any."""
    versions = dict(await query(dsn, "SELECT id, version FROM cache_sidecar.inventory"))
    rows = inside.dataset(shop.app, "inventory")
    assert await rows.publish({id: versions.get(id, max(versions.values()) + 1) for id in ids})


async def test_the_version_grows_in_whatever_order_changes_of_buckets_commit(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        room = Stockroom(shop.channel)
        await room.set("a", 20, bucket_count=2)
        seen = [await room.read("a", bypass=True)]
        async with watching(room, product_ids=["a"]) as watch:
            await watch.until_last("a", (20, 0))
            async with (
                await psycopg.AsyncConnection.connect(database) as first,
                await psycopg.AsyncConnection.connect(database) as second,
            ):
                await first.execute(TAKE, [1, 0])
                await second.execute(TAKE, [2, 1])
                for connection, available in ((second, 18), (first, 17)):
                    await connection.commit()
                    seen.append(await room.read("a", bypass=True))
                    await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="inventory", ids=row_ids("a", 2)))
                    await watch.until_last("a", (available, 0))
        for replies in (seen, watch.seen):
            assert [reply.inventory.available for reply in replies] == [20, 18, 17]
            versions = [reply.cache.version for reply in replies]
            assert versions == sorted(set(versions))


async def sell_one(room: Stockroom) -> None:
    await room.commit((await room.reserve({"a": 1})).reservation_id)


async def test_the_version_grows_with_whatever_anybody_does_to_the_buckets(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        room = Stockroom(shop.channel)
        await room.set("a", 10)
        held = await room.reserve({"a": 2})
        changes = [
            room.set("a", 40, bucket_count=8),
            sell_one(room),
            room.set("a", 40, bucket_count=64),
            room.release(held.reservation_id),
            room.adjust("a", 1),
            room.set("a", 41, bucket_count=64),
            query(database, "DELETE FROM cache_sidecar.inventory WHERE bucket > 60"),
            query(database, TAKE, 1, 7),
            query(database, "UPDATE cache_sidecar.inventory SET available = available + 1"),
            query(database, "INSERT INTO cache_sidecar.inventory (product_id, bucket, available) VALUES ('a', 61, 3)"),
            room.set("a", 40, bucket_count=2),
            query(database, "DELETE FROM cache_sidecar.inventory"),
            query(database, "INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('a', 40)"),
            room.set("a", 40, bucket_count=1),
        ]
        replies = [await room.read("a", bypass=True)]
        for number, change in enumerate(changes):
            await change
            if number != 11:  # it is gone
                replies.append(await room.read("a", bypass=True))
        versions = [reply.cache.version for reply in replies]
        assert versions == sorted(set(versions))
        assert len({reply.inventory.etag for reply in replies}) == len(replies)


async def test_readers_that_each_lack_another_change_don_t_show_one_version(
    open_shop: Open, database: str, namespace: str
) -> None:
    async with open_shop() as here, open_shop(namespace=f"{namespace}x") as there:
        rooms = [Stockroom(shop.channel) for shop in (here, there)]
        await rooms[0].set("a", 20, bucket_count=2)
        for room in rooms:
            # Another region's Redis has both rows from now on.
            await until(partial(_is_in_redis, room))
        await query(database, TAKE, 1, 0)
        await query(database, TAKE, 2, 1)
        first, second = row_ids("a", 2)
        await tell(here, database, [first])
        await tell(there, database, [second])
        replies = [await room.read("a") for room in rooms]
        assert [reply.inventory.available for reply in replies] == [19, 18]
        assert replies[0].cache.version != replies[1].cache.version
        await tell(here, database, [second])
        await tell(there, database, [first])
        last = [await room.read("a") for room in rooms]
        assert [reply.inventory.available for reply in last] == [17, 17]
        assert last[0].cache.version == last[1].cache.version > max(reply.cache.version for reply in replies)
        assert last[0].inventory.etag == last[1].inventory.etag


async def _is_in_redis(room: Stockroom, product_id: str = "a") -> bool:
    return (await room.read(product_id)).cache.source != STORE


CHOICES = {"none": slice(0), "first": slice(1), "others": slice(1, None), "last": slice(-1, None)}


@pytest.mark.parametrize("buckets", [1, 4, 9])
async def test_no_half_of_a_change_passes_for_a_stock(open_shop: Open, database: str, buckets: int) -> None:
    """Redis holds 6 buckets of 60 pieces, which another program spreads anew; it is told of some, and evicts some."""
    async with open_shop() as shop:
        room, direct = Stockroom(shop.channel), Direct(inside.l2_of(shop.app))
        for told, lost in itertools.product(CHOICES, CHOICES):
            id = f"{told} told, {lost} lost"
            await room.set(id, 60, bucket_count=6)
            await until(partial(_is_in_redis, room, id))
            await query(database, "SELECT FROM cache_sidecar.set_stock(%s, 60, %s)", id, buckets)
            ids = row_ids(id, max(6, buckets))
            await tell(shop, database, ids[CHOICES[told]])
            for row_id in ids[CHOICES[lost]]:
                await direct.unlink(inside.names_of(inside.l2_of(shop.app)).key("inventory", row_id))
            batch = await room.calls.BatchGetInventory(pb.BatchGetInventoryRequest(product_ids=[id]))
            replies = [await room.get(id), *batch.inventories]
            async with watching(room, product_ids=[id]) as watch:
                await until(lambda watch=watch: watch.seen)
                replies.append(watch.seen[0].inventory)
            assert {(reply.available, reply.bucket_count) for reply in replies} <= {(60, 6), (60, buckets)}, id
            if told == "first":
                assert replies[0] == await room.get(id, bypass=True)
            # What was read is in Redis then.
            await until(partial(_is_in_redis, room, id))
            # Nor does the gate refuse by a part.
            assert (await room.reserve({id: 60})).items[0].quantity == 60


async def test_a_redis_that_evicts_anything_at_any_time_makes_no_stock_smaller(
    open_shop: Open, processes: Processes, choose_ports: ChoosePorts, engine: str
) -> None:
    (port,) = choose_ports(1)
    options = {"maxmemory": "2500kb", "maxmemory-policy": "allkeys-lru"}
    server = ValkeyServer(processes, processes.state.path / f"valkey-lru-{engine}", port, options=options)
    await server.start()
    try:
        async with (
            open_shop(redis=server.address, redis_mode="single") as one,
            open_shop(redis=server.address, redis_mode="single") as two,
        ):
            rooms = [Stockroom(shop.channel) for shop in (one, two)]
            await rooms[0].set("a", 1000, bucket_count=6)
            seen: set[int] = set()
            done = asyncio.Event()

            async def crowd(client: Redis) -> None:
                """Writes a part of what Redis holds, so that something else has to go."""
                pipeline = client.pipeline(transaction=False)
                for _ in range(30):
                    pipeline.set(f"other-{random.random()}", "x" * 2000)
                await pipeline.execute()

            async def crowds() -> None:
                async with server.client() as client:
                    while not done.is_set():
                        await crowd(client)
                        await asyncio.sleep(0)

            async def read(room: Stockroom) -> None:
                while not done.is_set():
                    seen.add((await room.get("a")).available)

            async def spread(room: Stockroom) -> None:
                for _ in range(30):
                    await room.set("a", 1000, bucket_count=random.choice([1, 2, 4, 6, 8]))

            async with watching(rooms[0], product_ids=["a"]) as first, watching(rooms[1], product_ids=["a"]) as second:
                background = [asyncio.ensure_future(work) for work in (crowds(), *map(read, rooms))]
                async with server.client() as client:
                    await until(partial(_has_evicted, client))
                await asyncio.gather(*map(spread, rooms))
                done.set()
                await asyncio.gather(*background)
                states = [*first.seen, *second.seen]
            assert seen | {state.inventory.available for state in states} == {1000}
            for watch in (first, second):
                versions = [state.cache.version for state in watch.seen]
                assert versions == sorted(set(versions))
    finally:
        await server.stop()


async def _has_evicted(client: Redis) -> bool:
    return int((await client.info("stats"))["evicted_keys"]) > 0
