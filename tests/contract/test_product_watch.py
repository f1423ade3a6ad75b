"""WatchProducts: every committed change, in order, without loss or repetition."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest
from grpc import StatusCode

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.bench import frames
from tests.support import inside
from tests.support.raw import RawConnection, message
from tests.support.shop import AROUND_A_TENTH, Open, Shop, refusal
from tests.support.until import DEADLINE, until

CREATED, UPDATED, DELETED = pb.CHANGE_KIND_CREATED, pb.CHANGE_KIND_UPDATED, pb.CHANGE_KIND_DELETED
STARTED = pb.CHANGE_KIND_WATCH_STARTED
METHOD = "/cache_sidecar.v1.ProductService/WatchProducts"


class Watch:
    """A stream of changes that is read in the background."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.changes: list[pb.WatchProductsResponse] = []
        self.started: pb.WatchProductsResponse | None = None
        "Its first message."
        self.error: grpc.aio.AioRpcError | None = None
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        try:
            async for told in self.call:
                assert (told.kind == STARTED) == (self.started is None), "it begins with that, and only then"
                if self.started is None:
                    self.started = told
                else:
                    self.changes.append(told)
        except grpc.aio.AioRpcError as error:
            self.error = error

    async def told(self, count: int) -> list[tuple[str, int]]:
        """Waits for so many changes, and returns the product and kind of each."""
        await until(lambda: len(self.changes) >= count or self.error)
        return [(change.product_id, change.kind) for change in self.changes]

    async def start(self) -> int:
        """Waits for the first message, and returns the version that it says."""
        await until(lambda: self.started or self.error)
        assert self.started is not None
        return self.started.version

    async def ended(self) -> grpc.aio.AioRpcError:
        """Waits for the end of the stream, and returns how it ended."""
        await asyncio.wait_for(self._task, DEADLINE)
        assert self.error is not None
        return self.error


@contextlib.asynccontextmanager
async def watching(shop: Shop, after_version: int = 0) -> AsyncIterator[Watch]:
    """Watches; from 0 on, once the sidecar has joined the stream to the present."""
    before = len(inside.watchers_of(shop.app.store("catalog").changes))
    call = shop.products.WatchProducts(pb.WatchProductsRequest(after_version=after_version))
    watch = Watch(call)
    if after_version == 0:
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) > before or watch.error)
    try:
        yield watch
    finally:
        call.cancel()


async def statement(database: str, query: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(query)  # type: ignore[arg-type]


async def insert(database: str, count: int, prefix: str) -> None:
    """Creates products as another program would: in plain SQL."""
    await statement(
        database,
        f"""INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
            SELECT '{prefix}' || n, 'a mug', 1, 'EUR' FROM generate_series(1, {count}) AS n""",
    )


async def test_each_change_comes_with_id_version_and_kind(open_shop: Open) -> None:
    async with open_shop() as shop, watching(shop) as watch:
        created = await shop.create("{strange}: id é")
        updated = await shop.update(created.product_id, title="second")
        await shop.delete(created.product_id)
        again = await shop.create(created.product_id)
        kinds = await watch.told(4)
        assert kinds == [(created.product_id, kind) for kind in (CREATED, UPDATED, DELETED, CREATED)]
        versions = [change.version for change in watch.changes]
        assert [versions[0], versions[1], versions[3]] == [int(p.etag, 16) for p in (created, updated, again)]
        assert versions == sorted(versions)
        times = [change.change_time.ToNanoseconds() for change in watch.changes]
        assert times == sorted(times)
        assert abs(times[0] - created.create_time.ToNanoseconds()) < 5e9


async def test_a_change_made_through_another_sidecar_or_in_sql_comes_too(open_shop: Open, database: str) -> None:
    async with open_shop() as shop, open_shop() as other, watching(shop) as watch:
        await other.create("theirs")
        await insert(database, 1, "sql")
        assert await watch.told(2) == [("theirs", CREATED), ("sql1", CREATED)]


async def test_a_watch_starts_with_the_present(open_shop: Open) -> None:
    async with open_shop() as shop:
        await shop.create("before")
        async with watching(shop) as watch:
            await shop.create("after")
            assert await watch.told(1) == [("after", CREATED)]


async def test_a_repeated_request_and_a_refused_one_change_nothing(open_shop: Open) -> None:
    async with open_shop() as shop, watching(shop) as watch:
        created = await shop.create("a")
        for _ in range(3):
            await shop.update("a", title="x", etag=created.etag, request_id="6ba7b810-9dad-11d1-80b4-00c04fd430c8")
        with pytest.raises(grpc.aio.AioRpcError):
            await shop.create("a")
        await shop.create("b")
        assert await watch.told(3) == [("a", CREATED), ("a", UPDATED), ("b", CREATED)]


async def test_resuming_after_any_version_loses_and_repeats_nothing(open_shop: Open) -> None:
    async with open_shop() as shop, watching(shop) as watch:
        for number in range(6):
            await shop.create(f"p{number}")
            await shop.update(f"p{number // 2}", title=f"number {number}")
        whole = await watch.told(12)
        for place in range(12):
            async with watching(shop, watch.changes[place].version) as resumed:
                await shop.create(f"late{place}")
                expected = [*whole[place + 1 :], *((f"late{n}", CREATED) for n in range(place + 1))]
                assert await resumed.told(len(expected)) == expected


async def test_a_watch_resumes_through_another_sidecar(open_shop: Open) -> None:
    async with open_shop() as shop, open_shop() as other:
        async with watching(shop) as watch:
            await shop.create("a")
            await shop.create("b")
            await watch.told(2)
        async with watching(other, watch.changes[0].version) as resumed:
            await shop.create("c")
            assert await resumed.told(2) == [("b", CREATED), ("c", CREATED)]


async def test_resuming_while_changes_go_on_loses_and_repeats_nothing(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        async with watching(shop) as watch:
            first = await shop.create("first")
            await watch.told(1)
        await insert(database, 1500, "early")
        writing = asyncio.gather(*(insert(database, 50, f"late{n}-") for n in range(10)))
        async with watching(shop, int(first.etag, 16)) as resumed:
            await writing
            told = await resumed.told(2000)
            assert len(told) == len(set(told)) == 2000
            versions = [change.version for change in resumed.changes]
            assert len(set(versions)) == 2000


@pytest.mark.parametrize("version", [1, 2**40, 2**63 - 1])
async def test_a_version_that_is_not_kept_means_starting_over(open_shop: Open, database: str, version: int) -> None:
    async with open_shop() as shop:
        await shop.create("a")
        await shop.create("b")
        await statement(database, "DELETE FROM cache_sidecar.outbox WHERE version <= 1")
        async with watching(shop, version) as watch:
            refused = refusal(await watch.ended())
    assert refused.code == StatusCode.OUT_OF_RANGE
    assert refused.reason == "CHANGES_EXPIRED"
    assert str(version) in refused.message


async def test_an_outbox_that_was_emptied_does_not_disturb_who_watches_now(open_shop: Open, database: str) -> None:
    async with open_shop() as shop, watching(shop) as watch:
        await shop.create("a")
        await watch.told(1)
        await statement(database, "DELETE FROM cache_sidecar.outbox")
        async with watching(shop) as second:
            await shop.create("b")
            assert await second.told(1) == [("b", CREATED)]
        assert await watch.told(2) == [("a", CREATED), ("b", CREATED)]


async def test_a_negative_version_is_refused(shop: Shop) -> None:
    async with watching(shop, -1) as watch:
        refused = refusal(await watch.ended())
    assert refused.code == StatusCode.INVALID_ARGUMENT
    assert set(refused.violations) == {"after_version"}


async def test_a_slow_reader_is_told_and_resumes_without_loss(open_shop: Open, database: str) -> None:
    async with open_shop() as shop, watching(shop) as fast, RawConnection.open(shop.address, stream_window=200) as raw:
        stream = await raw.begin(METHOD)
        await raw.send(stream, message(b""), end=True)
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 2)
        count = 4000
        for number in range(4):
            await insert(database, count // 4, f"p{number}-")
            await fast.told(count // 4 * (number + 1))
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 1)
        raw.allow(stream, 2**24)
        reply = await raw.reply(stream)
        assert (reply.status, reply.message) == (
            10,
            "changes arrive faster than they are read: resume from the last version received",
        )
        start, *received = parsed(reply.body)
        assert start.kind == STARTED
        assert 2000 <= len(received) < count
        async with watching(shop, received[-1].version) as resumed:
            await resumed.told(count - len(received))
            versions = [change.version for change in [*received, *resumed.changes]]
        assert versions == [change.version for change in fast.changes]


async def test_readers_don_t_slow_each_other_or_writers(open_shop: Open) -> None:
    async with open_shop() as shop, watching(shop) as fast, RawConnection.open(shop.address, stream_window=0) as raw:
        stream = await raw.begin(METHOD)
        await raw.send(stream, message(b""), end=True)
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 2)
        for number in range(30):
            await shop.create(f"p{number}")
        await fast.told(30)
        assert not raw.received(stream).body
        raw.cancel(stream)
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 1)


async def test_streams_are_limited(open_shop: Open) -> None:
    async with open_shop(max_streams=3) as shop, contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(watching(shop)) for _ in range(3)]
        async with watching(shop) as fourth:
            refused = refusal(await fourth.ended())
        assert refused.code == StatusCode.RESOURCE_EXHAUSTED
        assert (refused.reason, refused.retry_after) == ("OVERLOADED", AROUND_A_TENTH)
        watches[0].call.cancel()
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 2)
        async with watching(shop) as again:
            await shop.create("a")
            assert await again.told(1) == [("a", CREATED)]


@pytest.mark.parametrize("how", ["cancel", "close", "deadline"])
async def test_watchers_that_leave_leave_nothing_behind(open_shop: Open, how: str) -> None:
    async with open_shop(max_streams=40) as shop:
        tasks = len(asyncio.all_tasks())
        for _ in range(3):
            await leave(shop, how, count=30)
            changes = shop.app.store("catalog").changes
            await until(lambda changes=changes: not inside.watchers_of(changes) and inside.reader_of(changes) is None)
            await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)


async def leave(shop: Shop, how: str, *, count: int) -> None:
    async with grpc.aio.insecure_channel(shop.address) as channel:
        method = channel.unary_stream(METHOD)
        timeout = 0.5 if how == "deadline" else None
        calls = [method(pb.WatchProductsRequest().SerializeToString(), timeout=timeout) for _ in range(count)]
        if how == "deadline":
            assert {await call.code() for call in calls} == {StatusCode.DEADLINE_EXCEEDED}
            return
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == count)
        if how == "cancel":
            for call in calls:
                call.cancel()


def parsed(body: bytes) -> list[pb.WatchProductsResponse]:
    """Returns the messages of a reply's body."""
    found = []
    while body:
        _, length = frames.MESSAGE.unpack_from(body)
        found.append(pb.WatchProductsResponse.FromString(body[5 : 5 + length]))
        body = body[5 + length :]
    return found
