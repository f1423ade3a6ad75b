"""Events that Redis cannot promise to keep: how calls share transactions of PostgreSQL."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.services import event_writer
from cache_sidecar.services.event_writer import EventWriter
from cache_sidecar.store.user_event import Added
from cache_sidecar.tiers.redis.event_streams import Outcome
from tests.support.gates import Gate, turns
from tests.support.launch import settings_for


class NoStreams:
    """A Redis that keeps nothing."""

    async def append(self, events: Sequence[bytes], *, limit: int, replicas: int) -> Outcome:
        return Outcome.UNSAFE


class Store:
    """A PostgreSQL with a gate."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.gate = Gate()
        self.error: Exception | None = None
        self.unreadable = 0

    async def add(self, events: Sequence[str], *, kept_after: datetime) -> Added:
        self.commits.append(list(events))
        await self.gate.passed()
        if self.error is not None:
            raise self.error
        return Added(len(events), self.unreadable)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def writer(store: Store) -> EventWriter:
    settings = settings_for("127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none", "n")
    given: Any = {"streams": NoStreams(), "store": store}
    return EventWriter(**given, settings=settings, clock=SystemClock(), dependency=Dependencies().of("user events"))


async def test_calls_that_wait_are_committed_together(writer: EventWriter, store: Store) -> None:
    store.gate.close()
    calls = [asyncio.create_task(writer.write([b"0"]))]
    await store.gate.reached()
    calls += [asyncio.create_task(writer.write([b"%d" % number])) for number in range(1, 5)]
    await turns(3)
    store.gate.open()
    await asyncio.gather(*calls)
    assert store.commits == [["0"], ["1", "2", "3", "4"]]
    assert writer.counts.direct == 5


async def test_a_call_that_comes_as_the_last_one_ends_is_not_forgotten(writer: EventWriter, store: Store) -> None:
    async with asyncio.timeout(10):
        for number in range(3):
            await writer.write([b"%d" % number])
    assert store.commits == [["0"], ["1"], ["2"]]


async def test_a_transaction_has_its_size(writer: EventWriter, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_writer, "TOGETHER", 4)
    store.gate.close()
    calls = [asyncio.create_task(writer.write([b"a"]))]
    await store.gate.reached()
    calls += [asyncio.create_task(writer.write([b"a", b"b", b"c"][:count])) for count in (2, 2, 3, 1)]
    await turns(3)
    store.gate.open()
    await asyncio.gather(*calls)
    assert [len(commit) for commit in store.commits] == [1, 4, 4]


async def test_above_the_bound_calls_are_refused(writer: EventWriter, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_writer, "WAITING", 3)
    store.gate.close()
    calls = [asyncio.create_task(writer.write([b"a"])) for _ in range(3)]
    await store.gate.reached()
    await turns(3)
    with pytest.raises(TierFailed) as refused:
        await writer.write([b"b"])
    assert refused.value.failure is Failure.BUSY
    store.gate.open()
    await asyncio.gather(*calls)
    await writer.write([b"b"])


@pytest.mark.parametrize("error", [TierFailed(Tier.STORE, Failure.TIMEOUT), ValueError("a defect")])
async def test_all_that_share_a_transaction_learn_that_it_failed(writer: EventWriter, store: Store, error: Exception) -> None:
    store.gate.close()
    calls = [asyncio.create_task(writer.write([b"a"])) for _ in range(4)]
    await store.gate.reached()
    await turns(3)
    calls[1].cancel()
    store.error = error
    store.gate.open()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in outcomes] == [type(error), asyncio.CancelledError, type(error), type(error)]
    store.error = None
    await writer.write([b"b"])
    assert writer.counts.direct == 1


async def test_what_is_not_accepted_is_not_acknowledged(writer: EventWriter, store: Store) -> None:
    store.unreadable = 1
    with pytest.raises(TierFailed, match="1 events were not accepted"):
        await writer.write([b"a"])
