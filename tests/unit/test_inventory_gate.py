"""The gate, before a shelf whose numbers the test sets."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import uuid4

import pytest

from cache_sidecar.core.errors import Failure, OutOfStock, Overloaded, Tier, TierFailed
from cache_sidecar.inventory import admission, throttled_read
from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.inventory.granted_requests import GrantedRequests
from cache_sidecar.inventory.sold_out import SoldOut
from cache_sidecar.inventory.stock import Bucket, BucketRecord, ProductStock, StockReader
from cache_sidecar.inventory.throttled_read import ThrottledRead
from cache_sidecar.store.inventory import every_row, row_ids
from cache_sidecar.store.reservation import Grant
from cache_sidecar.tiers.ports import ANY, Answer, Freshness, Source
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.until import until


class Shelf(StockReader):
    """What the tiers would say."""

    def __init__(self, **available: int) -> None:
        self.available = available
        self.source = Source.L2
        self.reads = 0
        self.failure: TierFailed | None = None
        self.stale = False
        self.store_reads = 0

    async def get_many(self, product_ids: Iterable[str], wanted: Freshness = ANY) -> dict[str, ProductStock]:
        """Returns what is on the shelf now; while Redis is behind it says that there is nothing."""
        ids = list(product_ids)
        self.reads += bool(ids)
        self.store_reads += wanted.bypass
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        return {id: self._total(id, stale=self.stale and not wanted.bypass) for id in ids}

    def _total(self, id: str, *, stale: bool) -> ProductStock:
        answer = Answer(b"", self.source, 1, 0.0, stale=stale)
        if stale:
            return ProductStock([Bucket(id, BucketRecord(0, 0, 1, 0, 0, 0, 0), 1)], [answer])
        return ProductStock(
            [Bucket(id, BucketRecord(self.available[id], 0, 1, 0, 0, 0, 0), 1)] if id in self.available else [], [answer]
        )


async def _no_grants(*_: object) -> list[object]:
    return []


def gate_of(shelf: Shelf, **more: int) -> ReservationAdmission:
    grants = GrantedRequests(_no_grants, max_grants=10, clock=ManualClock())  # type: ignore[arg-type]  # there are none
    return ReservationAdmission(shelf, SoldOut(row_ids=row_ids, clock=ManualClock()), grants, every_row=every_row, **more)


async def admitted(gate: ReservationAdmission, **items: int) -> None:
    async with gate.admit(items, uuid4()):
        pass


async def test_what_there_is_too_little_of_is_refused() -> None:
    gate = gate_of(Shelf(a=3, b=0))
    await admitted(gate, a=3)
    with pytest.raises(OutOfStock) as refused:
        await admitted(gate, a=3, b=1)
    assert (refused.value.product_id, refused.value.available) == ("b", 0)
    assert gate.refused == 1
    assert inside.queues_of(gate) == {}


async def test_what_nobody_knows_is_let_through() -> None:
    await admitted(gate_of(Shelf()), a=1)


async def test_a_few_go_on_at_once_and_lines_go_away_again() -> None:
    gate, go, entered = gate_of(Shelf(a=100, b=100), turns=2), asyncio.Event(), 0

    async def work(**items: int) -> None:
        nonlocal entered
        async with gate.admit(items, uuid4()):
            entered += 1
            await go.wait()
            entered -= 1

    tasks = [asyncio.get_running_loop().create_task(work(a=1, b=1)) for _ in range(5)]
    tasks += [asyncio.get_running_loop().create_task(work(b=1)) for _ in range(2)]
    await until(lambda: entered == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert entered == 2
    tasks[0].cancel()
    tasks[4].cancel()
    await until(lambda: entered == 3)
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks].count(True) == 2
    assert inside.queues_of(gate) == {}
    assert inside.inside_of(gate) == 0


async def test_news_of_too_little_refuses_those_who_wait() -> None:
    shelf = Shelf(a=5)
    gate, go = gate_of(shelf, turns=1), asyncio.Event()

    async def first() -> None:
        async with gate.admit({"a": 1}, uuid4()):
            await go.wait()
            gate.note_shortage("a", [Bucket("a", BucketRecord(1, 0, 1, 0, 0, 0, 0), 9)])

    holder = asyncio.get_running_loop().create_task(first())
    await until(lambda: "a" in inside.queues_of(gate))
    many = asyncio.get_running_loop().create_task(admitted(gate, a=2))
    one = asyncio.get_running_loop().create_task(admitted(gate, a=1))
    await until(lambda: len(inside.waiting_of(inside.queues_of(gate)["a"])) == 2)
    go.set()
    with pytest.raises(OutOfStock) as refused:
        await many
    assert refused.value.available == 1
    await one
    await holder
    assert inside.queues_of(gate) == {}


async def test_news_of_what_nobody_wants_is_no_news() -> None:
    gate_of(Shelf()).note_shortage("a", [])


async def test_too_many_are_refused_at_once() -> None:
    gate = gate_of(Shelf(a=100), max_waiting=1)
    async with gate.admit({"a": 1}, uuid4()):
        with pytest.raises(Overloaded):
            await admitted(gate, a=1)
    await admitted(gate, a=1)


async def test_postgresql_is_asked_at_a_pace_and_a_refusal_is_never_older_than_its_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttled_read, "INTERVAL", 0.5)
    shelf = Shelf(a=0)
    shelf.source = Source.STORE
    gate = gate_of(shelf)
    for reads in (1, 2):
        with pytest.raises(OutOfStock):
            await admitted(gate, a=1)
        assert shelf.reads == reads
    crowd = [asyncio.get_running_loop().create_task(admitted(gate, a=1)) for _ in range(50)]
    await asyncio.sleep(0)
    assert shelf.reads == 2
    # A piece is given back while they wait: none is refused for the old stock.
    shelf.available["a"] = 1
    await asyncio.gather(*crowd)
    assert shelf.reads == 3
    # Within the pause, who wants no more than there was is let through.
    await admitted(gate, a=1)
    assert shelf.reads == 3
    with pytest.raises(OutOfStock):
        await admitted(gate, a=2)
    assert shelf.reads == 4
    shelf.source = Source.L2
    with pytest.raises(OutOfStock):
        await admitted(gate, a=2)
    assert inside.throttled_of(gate) == {}


async def test_a_key_that_was_missing_makes_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttled_read, "INTERVAL", 3600.0)
    shelf = Shelf(a=0)
    shelf.source = Source.STORE
    gate = gate_of(shelf)
    with pytest.raises(OutOfStock):
        await admitted(gate, a=1)
    shelf.source = Source.L2
    with pytest.raises(OutOfStock):
        await admitted(gate, a=1)
    assert inside.throttled_of(gate) == {}


async def test_several_products_are_paced_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_THROTTLED", 2)
    shelf = Shelf(a=9, b=9, c=9)
    shelf.source = Source.STORE
    gate = gate_of(shelf)
    await admitted(gate, a=1, b=1)
    assert shelf.reads == 1
    await admitted(gate, a=1, b=1)
    assert shelf.reads == 3
    await admitted(gate, a=1, c=1)
    assert shelf.reads == 4
    assert list(inside.throttled_of(gate)) == ["b", "c"]


async def test_a_read_that_fails_fails_for_all_who_share_it_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttled_read, "INTERVAL", 0.01)
    shelf = Shelf(a=0)
    paced = ThrottledRead(lambda: shelf.get("a"), ProductStock([], []))
    shelf.failure = TierFailed(Tier.STORE, Failure.UNREACHABLE)
    failed = await asyncio.gather(*(paced.read(1) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [TierFailed] * 3
    alone = asyncio.get_running_loop().create_task(paced.read(1))
    await asyncio.sleep(0)
    # Nobody is left to hear of the failure.
    alone.cancel()
    await until(lambda: shelf.reads == 2)
    shelf.failure = None
    shelf.available["a"] = 4
    assert (await paced.read(1)).available == 4


async def test_nobody_is_refused_by_a_redis_that_is_told_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttled_read, "INTERVAL", 0.01)
    shelf = Shelf(a=3)
    shelf.stale = True
    gate = gate_of(shelf)
    await asyncio.gather(*(admitted(gate, a=3) for _ in range(20)))
    assert shelf.store_reads == 1
    with pytest.raises(OutOfStock) as refused:
        await admitted(gate, a=4)
    assert (refused.value.available, shelf.store_reads) == (3, 2)
    # What Redis says counts again when it is told in time.
    shelf.stale = False
    with pytest.raises(OutOfStock):
        await admitted(gate, a=4)
    assert (shelf.store_reads, inside.throttled_of(gate)) == (2, {})


async def test_a_request_that_was_granted_something_of_a_bucket_that_is_gone_is_let_through() -> None:
    granted, asked = uuid4(), []

    async def load(after: Mapping[str, int], _since: datetime) -> list[Grant]:
        asked.append(dict(after))
        return [Grant(every_row("a"), 5, granted)] if every_row("a") in after else []

    shelf = Shelf()
    grants = GrantedRequests(load, max_grants=10, clock=ManualClock())
    gate = ReservationAdmission(shelf, SoldOut(row_ids=row_ids, clock=ManualClock()), grants, every_row=every_row)
    # The bucket there is now granted nothing since it was set, in epoch 9.
    known = ProductStock([Bucket("a", BucketRecord(0, 0, 1, 0, 0, 9, 1), 10)], ())
    await inside.refuse(gate, "a", known, granted)
    with pytest.raises(OutOfStock):
        await inside.refuse(gate, "a", known, uuid4())
    assert asked == [{every_row("a"): 0}]
