"""The ledger: however often and wherever a request is repeated, it has one effect and one reply."""

import asyncio
from collections.abc import AsyncIterator
from typing import LiteralString
from uuid import uuid4

import pytest

from cache_sidecar.core.errors import AlreadyExists, EtagMismatch, NotFound, RequestIdReused, TierFailed
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.store.database import Database
from cache_sidecar.store.product import ProductStore
from cache_sidecar.store.writes import RowChange, Transaction, WriteResult
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.clocks import ManualClock
from tests.support.databases import Creation, key, open_database, run
from tests.support.dataset_case import open_case
from tests.support.gates import Gate
from tests.support.until import until


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with open_database(database, size=8) as store:
        yield store


async def effects(database: str) -> tuple[int, int, int]:
    """Returns how many products, outbox rows and ledger rows there are."""
    counts = [await run(database, f"SELECT count(*) FROM cache_sidecar.{t}") for t in ("products", "outbox", "requests")]
    return counts[0][0][0], counts[1][0][0], counts[2][0][0]


async def test_a_repeat_gets_the_first_reply_and_changes_nothing(opened: Database, database: str) -> None:
    first = await opened.write(key(), Creation("a", b"first"))
    again = await opened.write(key(), Creation("a", b"second"))
    assert (again.reply, again.is_repeat) == (b"first", True)
    assert {change.id: change.version for change in again.changes} == {"a": first.changes[0].version}
    assert await effects(database) == (1, 1, 1)


async def test_race_21_a_repeat_whose_work_would_succeed_changes_nothing(opened: Database, database: str) -> None:
    await opened.write(key(), Creation("a", b"first"))
    again = await opened.write(key(), Creation("b", b"second"))
    assert again.reply == b"first"
    assert await effects(database) == (1, 1, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('a', -1)",
        "SELECT 9223372036854775807 + 1",
        "DO $$ BEGIN RAISE EXCEPTION 'the rows do not allow it'; END $$",
    ],
)
async def test_a_repeat_whose_work_the_rows_no_longer_allow_gets_the_first_reply(
    opened: Database, database: str, statement: LiteralString
) -> None:
    async def fail(tx: Transaction) -> WriteResult[None]:
        await tx.execute(statement)
        raise AssertionError

    with pytest.raises(TierFailed):
        await opened.write(key(), fail)
    await opened.write(key(), Creation("a", b"first"))
    assert (await opened.write(key(), fail)).reply == b"first"
    assert await effects(database) == (1, 1, 1)


async def test_other_requests_are_done_on_their_own(opened: Database, database: str) -> None:
    for number, id in enumerate("abc"):
        await opened.write(key(number), Creation(id))
    assert await effects(database) == (3, 3, 3)


@pytest.mark.parametrize("other", [key(fingerprint=b"other"), key(method="Update")])
@pytest.mark.parametrize("id", ["a", "b"])
async def test_an_id_that_comes_back_with_another_request_is_refused(
    opened: Database, database: str, other: object, id: str
) -> None:
    await opened.write(key(), Creation("a"))
    with pytest.raises(RequestIdReused):
        await opened.write(other, Creation(id))  # type: ignore[arg-type]
    assert await effects(database) == (1, 1, 1)


@pytest.mark.parametrize("ids", ["aaaaaaaa", "abcdefgh"])
async def test_concurrent_duplicates_have_one_effect_and_one_reply(database: str, ids: str) -> None:
    """Through two sidecars, with work that conflicts by itself and with work that does not."""
    async with open_database(database, size=8) as one, open_database(database, size=8) as two:
        work = [
            store.write(key(), Creation(id, f"{id}{number}".encode())) for number, id in enumerate(ids) for store in (one, two)
        ]
        written = await asyncio.gather(*work)
        assert len({result.reply for result in written}) == 1
        assert [result.is_repeat for result in written].count(False) == 1
        assert len({change.version for result in written for change in result.changes}) == 1
    assert await effects(database) == (1, 1, 1)


async def test_a_duplicate_waits_for_the_first_and_takes_over_when_it_fails(opened: Database, database: str) -> None:
    gate = Gate()
    gate.close()

    async def failing(tx: Transaction) -> WriteResult[None]:
        await Creation("a")(tx)
        await gate.passed()
        raise NotFound("product", "other")

    first = asyncio.create_task(opened.write(key(), failing))
    await gate.reached()
    second = asyncio.create_task(opened.write(key(), Creation("a", b"second")))
    await until(lambda: somebody_waits(database))
    gate.open()
    # One that failed looks whether its request was answered after all: here it may, or may not yet, have been.
    (failed,) = await asyncio.gather(first, return_exceptions=True)
    assert isinstance(failed, NotFound) or failed.reply == b"second"
    assert (await second).reply == b"second"
    assert await effects(database) == (1, 1, 1)


async def somebody_waits(database: str) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await run(database, query))


@pytest.mark.parametrize("error", [NotFound("product", "a"), AlreadyExists("product", "a"), EtagMismatch("product", "a", "1")])
async def test_a_repeat_that_would_now_fail_gets_the_first_reply(opened: Database, error: Exception) -> None:
    await opened.write(key(), Creation("a", b"first"))

    async def now_failing(_: Transaction) -> WriteResult[None]:
        raise error

    assert (await opened.write(key(), now_failing)).reply == b"first"
    with pytest.raises(type(error)):
        await opened.write(key(2), now_failing)


async def test_a_deletion_that_is_repeated_is_one(opened: Database, database: str) -> None:
    store = ProductStore(opened)
    await opened.write(None, Creation("a"))

    async def delete(tx: Transaction) -> WriteResult[None]:
        await store.lock(tx, "a")
        return WriteResult(b"deleted", [RowChange("a", await store.delete(tx, "a"))])

    first = await opened.write(key(), delete)
    again = await opened.write(key(), delete)
    assert again.reply == b"deleted"
    assert {change.id: change.version for change in again.changes} == {"a": first.changes[0].version}
    assert (await effects(database))[1] == 2


async def test_concurrent_updates_under_one_etag_have_one_winner(opened: Database) -> None:
    store = ProductStore(opened)
    created = await opened.write(None, Creation("a"))

    def update(title: str) -> object:
        async def work(tx: Transaction) -> WriteResult[None]:
            current = await store.lock(tx, "a")
            if current.version != created.changes[0].version:
                raise EtagMismatch("product", "a", f"{current.version:x}")
            row = await store.save(tx, current, current._replace(title=title))
            return WriteResult(title.encode(), [RowChange("a", row.version)])

        return work

    outcomes = await asyncio.gather(
        *(opened.write(key(number), update(f"title{number}")) for number in range(8)),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    assert [isinstance(outcome, EtagMismatch) for outcome in outcomes].count(True) == 7
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, WriteResult)]
    assert (await store.load(["a"]))[0].title.encode() == winner.reply


# The writer: what is committed reaches the caches, whoever still listens


def creation_request() -> pb.CreateProductRequest:
    return pb.CreateProductRequest(request_id=str(uuid4()))


async def test_a_write_whose_caller_left_is_finished(opened: Database, valkey_cluster: ValkeyCluster, namespace: str) -> None:
    async with open_case(",".join(valkey_cluster.addresses), namespace, clock=ManualClock()) as case:
        writer, gate = Writer(opened, bound=Bound(1 << 20)), Gate()
        gate.close()

        async def work(tx: Transaction) -> WriteResult[None]:
            await gate.passed()
            return await Creation("a")(tx)

        leaving = asyncio.create_task(writer.write(case.dataset, creation_request(), work))
        await gate.reached()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.open()
        await writer.close()
        record = await case.in_l2("a")
        assert record is not None
        assert record.value == b"entry"


async def test_a_repeat_through_another_sidecar_ends_what_that_one_held(
    database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    """The first sidecar died between the commit and Redis; whoever repeats the request reads what it wrote."""
    nodes = ",".join(valkey_cluster.addresses)
    async with open_database(database) as store, open_case(nodes, namespace) as case:
        request, writer = creation_request(), Writer(store, bound=Bound(1 << 20))
        assert (await case.get("a"))[0] is None
        async with open_case("127.0.0.1:1", namespace) as dead:
            await writer.write(dead.dataset, request, Creation("a"))
        case.rows.commit("a", 1, b"entry")
        assert (await case.get("a"))[0] is None
        assert await writer.write(case.dataset, request, Creation("a")) == b"reply"
        assert (await case.get("a"))[0] == b"entry"


async def test_a_request_without_an_id_is_done_each_time(
    opened: Database, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_case(",".join(valkey_cluster.addresses), namespace) as case:
        writer = Writer(opened, bound=Bound(1 << 20))
        for id in "ab":
            await writer.write(case.dataset, pb.CreateProductRequest(), Creation(id))
        assert await case.dataset.get_many("ab") != {}
        assert [bool(await case.in_l2(id)) for id in "ab"] == [True, True]
