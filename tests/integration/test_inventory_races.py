"""Two transactions on the stock of one product: whoever decides on all of its buckets sees all of them.

The first one is held open by the test; that the second one waits for it is read from pg_stat_activity.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from grpc import StatusCode

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.inventory.stock import VERSIONS_PER_EPOCH
from cache_sidecar.store.bulk import BulkInventory
from tests.support.launch import in_process, settings_for
from tests.support.shop import refused
from tests.support.stockroom import Stockroom, query
from tests.support.until import until

Connection = psycopg.AsyncConnection[Any]
RESERVE = "SELECT granted, (stock).bucket FROM cache_sidecar.reserve(%s, %s, 'somebody', %s, %s, %s, %s, %s)"


@pytest.fixture
async def room(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[Stockroom]:
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace, postgres_timeout=20.0)
    async with in_process(settings) as sidecar:
        yield Stockroom(sidecar.channel)


@asynccontextmanager
async def transaction(dsn: str) -> AsyncIterator[Connection]:
    """Opens a transaction that the test commits, or rolls back."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection
        await connection.rollback()


async def set_stock(connection: Connection, product_id: str, available: int, count: int) -> None:
    """Does what SetInventory does."""
    await connection.execute("SELECT FROM cache_sidecar.lock_stock(%s)", [product_id])
    await connection.execute("SELECT FROM cache_sidecar.set_stock(%s, %s, %s)", [product_id, available, count])


async def waiting(dsn: str, count: int = 1) -> None:
    """Returns when so many sessions wait for a lock."""

    async def do_wait() -> bool:
        found = await query(
            dsn,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        return bool(found[0][0] == count)

    await until(do_wait)


async def overtaken(dsn: str, first: Connection, second: Awaitable[Any]) -> Any:
    """Commits the first transaction when the second one waits for it, and returns what that one comes to."""
    task = asyncio.ensure_future(second)
    await waiting(dsn)
    await first.commit()
    return await task


def reserving(product_id: str, pieces: int, *, preferred: int) -> list[Any]:
    now = datetime.now(UTC)
    return [uuid4(), uuid4(), now, now, [product_id], [pieces], [preferred]]


async def buckets(dsn: str, product_id: str = "a") -> list[tuple[int, ...]]:
    return await query(
        dsn,
        "SELECT bucket, buckets, available, reserved FROM cache_sidecar.inventory WHERE product_id = %s ORDER BY bucket",
        product_id,
    )


async def test_an_adjustment_counts_the_buckets_that_are_made_while_it_waits(room: Stockroom, database: str) -> None:
    made = await room.set("a", 100)
    async with transaction(database) as first:
        await set_stock(first, "a", 100, 4)
        adjusted = await overtaken(database, first, room.adjust("a", 1))
    assert (adjusted.available, adjusted.bucket_count) == (101, 4)
    assert await buckets(database) == [(0, 4, 26, 0), (1, 4, 25, 0), (2, 4, 25, 0), (3, 4, 25, 0)]
    assert adjusted.etag != made.etag


async def test_an_etag_is_compared_with_all_buckets(room: Stockroom, database: str) -> None:
    made = await room.set("a", 100)
    async with transaction(database) as first:
        await set_stock(first, "a", 105, 8)
        refusal = await overtaken(database, first, refused(room.set("a", 1, etag=made.etag)))
    assert refusal.code is StatusCode.ABORTED
    current = await room.get("a", bypass=True)
    assert (current.available, refusal.metadata["etag"]) == (105, current.etag)


async def test_no_bucket_goes_in_which_something_was_reserved_meanwhile(room: Stockroom, database: str) -> None:
    await room.set("a", 100)
    async with transaction(database) as first:
        await set_stock(first, "a", 100, 4)
        await first.execute(RESERVE, reserving("a", 5, preferred=3))
        refusal = await overtaken(database, first, refused(room.set("a", 100, bucket_count=2)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "BUCKETS_IN_USE")
    assert await room.numbers("a", bypass=True) == (95, 5)


async def test_an_import_keeps_the_buckets_that_are_made_while_it_waits(room: Stockroom, database: str) -> None:
    await room.set("a", 100)

    async def imports() -> int:
        async with BulkInventory(database) as bulk:
            return await bulk.upsert(["product_id", "available"], [["a", 100]])

    async with transaction(database) as first:
        await set_stock(first, "a", 100, 4)
        assert await overtaken(database, first, imports()) == 0
    assert await buckets(database) == [(bucket, 4, 25, 0) for bucket in range(4)]


async def test_a_reservation_is_not_refused_by_a_part_of_the_stock(room: Stockroom, database: str) -> None:
    await room.set("a", 0)

    async def reserve() -> list[tuple[Any, ...]]:
        return await query(database, RESERVE, *reserving("a", 60, preferred=0))

    async with transaction(database) as first:
        await set_stock(first, "a", 100, 4)
        assert await overtaken(database, first, reserve()) == [(True, 0), (True, 1), (True, 2)]
    assert await room.numbers("a", bypass=True) == (40, 60)


async def test_of_two_that_make_a_stock_the_second_finds_it_made(room: Stockroom, database: str) -> None:
    for product_id, second, wanted in [
        ("a", room.set("a", 50), (50, 4)),
        ("b", room.adjust("b", 1), (101, 4)),
        ("c", room.set("c", 50, bucket_count=2), (50, 2)),
    ]:
        async with transaction(database) as first:
            await set_stock(first, product_id, 100, 4)
            made = await overtaken(database, first, second)
        assert (made.available, made.bucket_count) == wanted
        assert [count for _, count, *_ in await buckets(database, product_id)] == [wanted[1]] * wanted[1]


async def test_of_two_that_make_a_stock_the_second_s_etag_is_compared(room: Stockroom, database: str) -> None:
    async with transaction(database) as first:
        await set_stock(first, "a", 100, 1)
        refusal = await overtaken(database, first, refused(room.set("a", 50, etag="1")))
    assert refusal.code is StatusCode.ABORTED
    assert refusal.metadata["etag"] == (await room.get("a", bypass=True)).etag


async def test_one_that_takes_its_making_back_lets_the_other_make_it(room: Stockroom, database: str) -> None:
    async with transaction(database) as first:
        await set_stock(first, "a", 100, 4)
        task = asyncio.ensure_future(room.set("a", 50))
        await waiting(database)
        await first.rollback()
    assert ((await task).available, await buckets(database)) == (50, [(0, 1, 50, 0)])


async def test_another_program_s_bucket_waits_until_the_stock_is_decided_on(room: Stockroom, database: str) -> None:
    await room.set("a", 10)
    insert = "INSERT INTO cache_sidecar.inventory (product_id, bucket, buckets, available) VALUES ('a', 1, 2, 5)"
    async with transaction(database) as first:
        await first.execute("SELECT FROM cache_sidecar.lock_stock('a')")
        task = asyncio.ensure_future(query(database, insert))
        await waiting(database)
        assert await buckets(database) == [(0, 1, 10, 0)]
        await first.commit()
        await task
    assert await buckets(database) == [(0, 1, 10, 0), (1, 2, 5, 0)]


async def test_a_reservation_that_waited_in_vain_keeps_nobody_waiting(room: Stockroom, database: str) -> None:
    """Its UPDATE of the preferred bucket has locked that. Whoever decides on all of them has bucket 0, and wants this one."""
    await room.set("a", 20, bucket_count=2)

    async def reserve() -> list[tuple[Any, ...]]:
        return await query(database, RESERVE, *reserving("a", 10, preferred=1))

    # A deadlock would end one of the two, after a second.
    async with transaction(database) as first, transaction(database) as second:
        await first.execute("UPDATE cache_sidecar.inventory SET available = 0 WHERE product_id = 'a' AND bucket = 1")
        reservation = asyncio.ensure_future(reserve())
        await waiting(database)
        lock = asyncio.ensure_future(second.execute("SELECT bucket, available FROM cache_sidecar.lock_stock('a')"))
        await waiting(database, 2)
        await first.commit()
        assert await (await lock).fetchall() == [(0, 10), (1, 0)]
        await second.commit()
        assert await reservation == [(True, 0)]


async def test_two_changes_of_each_of_two_buckets_never_add_up_to_the_same(database: str) -> None:
    steps = [one for (one,) in await query(database, "SELECT cache_sidecar.step_of_bucket(n) FROM generate_series(0, 63) AS n")]
    assert min(steps) > 0
    assert max(steps) < VERSIONS_PER_EPOCH
    sums = [one + other for number, one in enumerate(steps) for other in steps[number:]]
    assert len(sums) == len(set(sums))
