"""What refusals cost PostgreSQL, counted in its own log, and how long a refusal can be wrong."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from psycopg import sql

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.inventory.admission import TURNS
from cache_sidecar.store.inventory import every_row
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.store.reservation import ReservationStore
from cache_sidecar.v1.inventory_pb2 import Reservation
from tests.integration.test_relay import leading
from tests.integration.test_statements import Log
from tests.support.dataset_case import open_l2
from tests.support.launch import Sidecar, in_process, settings_for
from tests.support.shop import admitted, refusal, refused
from tests.support.stockroom import Stockroom, database_of, query, request_id
from tests.support.until import until

# How the statements begin that read stock, and the requests that got some.
STOCK, GRANTS = "SELECT present.id", "SELECT known.id"
# What a new connection is told first, and what the check of the database asks (the rest of that begins with an empty line).
OF_NO_CALL = (
    "pg_backend_pid()",
    "cache_sidecar.migrations",
    "pg_is_in_recovery()",
    "current_user",
    "pg_class",
    "product_search_state",
)


@pytest.fixture
async def log(postgres: Postgres, database: str) -> Log:
    name = database.rpartition("/")[2]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(sql.Identifier(name)))
    found = Log(postgres.child.log)
    found.mark()
    return found


@asynccontextmanager
async def sidecar_of(cluster: ValkeyCluster, database: str, namespace: str, **more: object) -> AsyncIterator[Sidecar]:
    async with in_process(settings_for(",".join(cluster.addresses), database, namespace, **more)) as running:
        yield running


@pytest.fixture
async def room(valkey_cluster: ValkeyCluster, database: str, namespace: str, log: Log) -> AsyncIterator[Stockroom]:
    async with sidecar_of(valkey_cluster, database, namespace) as running:
        yield Stockroom(running.channel)


def asked(log: Log) -> list[str]:
    """Returns the statements but for those of new connections and of the check of the database, which come when they come."""
    return [text for text in log.statements() if text and not any(of in text for of in OF_NO_CALL)]


def asking(log: Log, text: str) -> int:
    """Returns how many statements with a text there were."""
    return sum(text in statement for statement in asked(log))


async def sold_out(room: Stockroom, *, buckets: int = 1) -> str:
    """Sells out a product, and returns the request_id that got the last of it."""
    request = request_id()
    await room.set("a", 3, bucket_count=buckets)
    await room.reserve({"a": 2})
    await room.reserve({"a": 1}, request_id=request)
    assert (await refused(room.reserve({"a": 1}))).reason == "OUT_OF_STOCK"
    return request


def one_of_a_crowd(room: Stockroom) -> Coroutine[Any, Any, Reservation]:
    """Reserves one of "a"."""
    return admitted(lambda: room.reserve({"a": 1}))


async def refuse(room: Stockroom, callers: int) -> None:
    refusals = await asyncio.gather(*(refused(one_of_a_crowd(room)) for _ in range(callers)))
    assert {refusal.reason for refusal in refusals} == {"OUT_OF_STOCK"}


@pytest.mark.parametrize("buckets", [1, 4])
async def test_refusing_what_is_sold_out_costs_postgresql_nothing(room: Stockroom, log: Log, buckets: int) -> None:
    request = await sold_out(room, buckets=buckets)
    log.mark()
    await refuse(room, 300)
    for _ in range(10):
        await refuse(room, 1)
    assert asked(log) == []
    # Nor is a repeat of what was granted mistaken for one more.
    assert (await room.reserve({"a": 1}, request_id=request)).items[0].quantity == 1


async def test_a_sidecar_that_was_not_there_reads_the_grants_and_then_no_more(
    room: Stockroom, log: Log, valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    request = await sold_out(room)
    log.mark()
    async with sidecar_of(valkey_cluster, database, namespace) as other:
        late = Stockroom(other.channel)
        await refuse(late, 200)
        # Those who come while it is read don't trust a read that began before they came.
        assert 1 <= asking(log, GRANTS) == len(asked(log)) <= 5
        log.mark()
        await refuse(late, 50)
        assert asked(log) == []
        first = await room.reserve({"a": 1}, request_id=request)
        assert await late.reserve({"a": 1}, request_id=request) == first


async def test_of_a_crowd_only_a_few_reach_postgresql_in_vain(room: Stockroom, log: Log) -> None:
    await room.set("a", 10)
    log.mark()
    replies = await asyncio.gather(*(one_of_a_crowd(room) for _ in range(500)), return_exceptions=True)
    assert sum(not isinstance(reply, BaseException) for reply in replies) == 10
    assert 10 <= asking(log, "cache_sidecar.reserve(") <= 10 + TURNS


async def test_a_refusal_ends_with_the_news(
    room: Stockroom, database: str, namespace: str, valkey_cluster: ValkeyCluster
) -> None:
    await sold_out(room)
    await query(database, "UPDATE cache_sidecar.inventory SET available = 1")
    # Another program wrote it: nobody has told Redis yet.
    await refuse(room, 1)
    async with database_of(database) as opened, open_l2(",".join(valkey_cluster.addresses), namespace) as l2:
        async with leading(RelayStore(opened), l2, database) as region:
            while await region.step():
                pass
        # It takes the way of every announcement.
        await until(lambda: _is_granted(room))


async def _is_granted(room: Stockroom) -> bool:
    try:
        await room.reserve({"a": 1})
    except grpc.aio.AioRpcError as error:
        assert refusal(error).reason == "OUT_OF_STOCK"
        return False
    return True


async def test_what_redis_lost_is_rebuilt_by_one_read(
    room: Stockroom, log: Log, namespace: str, valkey_cluster: ValkeyCluster
) -> None:
    await sold_out(room)
    async with open_l2(",".join(valkey_cluster.addresses), namespace) as l2:
        await l2.drop("inventory", ["a"])
    log.mark()
    await refuse(room, 200)
    await refuse(room, 20)
    assert 1 <= asking(log, STOCK) == len(asked(log)) <= 2


async def test_without_redis_postgresql_alone_decides_and_a_crowd_shares_its_reads(
    database: str, namespace: str, log: Log
) -> None:
    away = settings_for("127.0.0.1:1", database, namespace, redis_mode="single")
    async with in_process(away, trusted=False) as running:
        room = Stockroom(running.channel)
        await room.set("a", 5)
        log.mark()
        replies = await asyncio.gather(*(one_of_a_crowd(room) for _ in range(300)), return_exceptions=True)
        assert sum(not isinstance(reply, BaseException) for reply in replies) == 5
        assert asking(log, "cache_sidecar.reserve(") <= 5 + TURNS
        log.mark()
        await refuse(room, 300)
        assert 1 <= asking(log, STOCK) <= 3
        assert asking(log, STOCK) + asking(log, GRANTS) == len(asked(log))
        held = await room.reserve({"b": 1}) if await room.set("b", 1) else None
        assert held is not None
        await room.release(held.reservation_id)
        # It is given back: the next one gets it, Redis or not.
        assert (await room.reserve({"b": 1})).items[0].quantity == 1


async def test_without_redis_and_postgresql_there_is_no_answer(namespace: str) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    away = settings_for("127.0.0.1:1", nowhere, namespace, redis_mode="single", postgres_timeout=0.5)
    async with in_process(away, trusted=False) as running:
        refusal = await refused(Stockroom(running.channel).reserve({"a": 1}))
        assert (refusal.reason, refusal.metadata) == ("TIER_UNAVAILABLE", {"tier": "PostgreSQL"})


async def test_what_was_granted_before_an_epoch_is_known_when_it_begins_and_not_before(room: Stockroom, database: str) -> None:
    """In one epoch, a grant of another bucket with a smaller number may be committed later."""
    take = "SELECT grant_version FROM cache_sidecar.take('a', %s, 1, %s)"
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    await room.set("a", 10, bucket_count=2)
    made = [await room.reserve({"b": 1}) for _ in range(2) if await room.set("b", 9)]
    requests = {
        row[0]: row[1]
        for row in await query(database, "SELECT reservation_id::text, request_id FROM cache_sidecar.reservations")
    }
    async with database_of(database) as opened:
        store = ReservationStore(opened)

        async def before() -> set[UUID]:
            return {grant.request_id for grant in await store.grants({every_row("a"): 0}, long_ago)}

        async with await psycopg.AsyncConnection.connect(database) as slow:
            await slow.execute(take, [0, made[0].reservation_id])
            await query(database, take, 1, made[1].reservation_id)
            assert await before() == set()
            await slow.commit()
        assert await before() == set()
        for one in made:
            await room.commit(one.reservation_id)
        await room.set("a", 0, bucket_count=1)
        assert await before() == set(requests.values())
        (epoch,) = (await query(database, "SELECT epoch FROM cache_sidecar.inventory WHERE id = 'a'"))[0]
        assert await store.grants({every_row("a"): epoch}, long_ago) == []
        # Also when nothing is left of the stock.
        await query(database, "DELETE FROM cache_sidecar.inventory WHERE product_id = 'a'")
        assert await before() == set(requests.values())
