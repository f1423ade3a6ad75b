"""Watching: every change once, in order, from where the watcher left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cache_sidecar.core.errors import ChangesExpired, TierFailed, WatchTooSlow
from cache_sidecar.services.shared import changes as module
from cache_sidecar.services.shared.changes import Changes, Started
from cache_sidecar.store.database import Database
from cache_sidecar.store.outbox import Change, Outbox, RelayStore
from tests.support import inside
from tests.support.databases import INSERT, UNLISTED, open_database, remember, run
from tests.support.gates import Gate
from tests.support.until import until


@pytest.fixture(autouse=True)
async def _unlisted(database: str) -> None:
    await run(database, UNLISTED)


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with open_database(database, size=4) as store:
        yield store


@pytest.fixture
def changes(opened: Database) -> Changes:
    return Changes(Outbox(opened))


class Watcher:
    """A watcher that takes what comes."""

    def __init__(self, changes: Changes, after: int = 0, dataset: str = "product") -> None:
        self.seen: list[Change] = []
        self.started: Started | None = None
        self.stream = changes.watch(dataset, after)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for change in self.stream:
            if isinstance(change, Started):
                assert self.started is None
                self.started = change
            else:
                self.seen.append(change)

    async def saw(self, *ids: str) -> None:
        await until(lambda: len(self.seen) >= len(ids) or self.task.done())
        assert [change.id for change in self.seen] == list(ids)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.stream.aclose()  # type: ignore[attr-defined]


def _id(told: Started | Change) -> str:
    assert isinstance(told, Change)
    return told.id


async def insert(database: str, *ids: str) -> int:
    for id in ids:
        await run(database, INSERT, [id, "Sofa"])
    ((version,),) = await run(database, "SELECT max(version) FROM cache_sidecar.outbox")
    return int(version)


async def joined(changes: Changes, count: int = 1) -> None:
    await until(lambda: len(inside.watchers_of(changes)) >= count)


async def test_changes_from_now_on(changes: Changes, database: str) -> None:
    await insert(database, "before")
    watcher = Watcher(changes)
    await joined(changes)
    await insert(database, "a", "b")
    changes.wake()
    await watcher.saw("a", "b")
    await watcher.stop()


async def test_a_change_that_nobody_announced_is_noticed(
    changes: Changes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    watcher = Watcher(changes)
    await joined(changes)
    await insert(database, "a")
    await watcher.saw("a")
    await watcher.stop()


async def test_a_watcher_goes_on_where_it_left(changes: Changes, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    left_at = await insert(database, "a")
    await insert(database, "b", "c", "d", "e", "f")
    watcher = Watcher(changes, left_at)
    await watcher.saw("b", "c", "d", "e", "f")
    await insert(database, "g")
    changes.wake()
    await watcher.saw("b", "c", "d", "e", "f", "g")
    await watcher.stop()


async def test_nothing_is_missed_or_told_twice_between_the_past_and_the_present(changes: Changes, database: str) -> None:
    """Changes go on while watchers join, each from another point."""
    first = await insert(database, "id0")
    watchers = [Watcher(changes, first)]
    expected = []
    for number in range(1, 21):
        expected.append(f"id{number}")
        await insert(database, f"id{number}")
        changes.wake()
        if number % 5 == 0:
            watchers.append(Watcher(changes, first))
    for watcher in watchers:
        await watcher.saw(*expected)
        positions = [change.position for change in watcher.seen]
        assert positions == sorted(set(positions))
        await watcher.stop()


class HeldOutbox(Outbox):
    """An outbox that can be held before it is read on."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.gate = Gate()

    async def after(self, position: int, *, limit: int, dataset: str = "") -> list[Change]:
        await self.gate.passed()
        return await super().after(position, limit=limit, dataset=dataset)


async def test_from_now_on_is_from_now_on_although_the_reader_is_behind(opened: Database, database: str) -> None:
    outbox = HeldOutbox(opened)
    changes = Changes(outbox)
    first = Watcher(changes)
    await joined(changes)
    outbox.gate.close()
    await insert(database, "a")
    changes.wake()
    await outbox.gate.reached()
    second = Watcher(changes)
    await joined(changes, 2)
    outbox.gate.open()
    await insert(database, "b")
    changes.wake()
    await first.saw("a", "b")
    await second.saw("b")
    await first.stop()
    await second.stop()


async def test_only_the_dataset_asked_for(changes: Changes, database: str) -> None:
    watcher, other = Watcher(changes), Watcher(changes, dataset="other")
    await joined(changes, 2)
    await insert(database, "a")
    changes.wake()
    await watcher.saw("a")
    assert other.seen == []
    await watcher.stop()
    await other.stop()


async def test_a_version_that_is_no_longer_kept_is_told_so(changes: Changes, opened: Database, database: str) -> None:
    version = await insert(database, "a")
    (change,) = await Outbox(opened).after(0, limit=1)
    await remember(database, "eu", change.position)
    await RelayStore(opened).prune(changes_after=0.0, requests_after=3600.0)
    watcher = Watcher(changes, version)
    with pytest.raises(ChangesExpired):
        await watcher.task


async def test_who_reads_too_slowly_is_told_and_the_others_go_on(
    changes: Changes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    slow = changes.watch("product", 0)
    assert isinstance(await anext(slow), Started)
    first = asyncio.create_task(anext(slow))
    await joined(changes)
    monkeypatch.setattr(module, "MAX_QUEUED", 1000)
    fast = Watcher(changes)
    await joined(changes, 2)
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    await insert(database, "a")
    changes.wake()
    assert _id(await first) == "a"
    for id in "bcdefgh":
        await insert(database, id)
        changes.wake()
        await until(lambda: not fast.task.done() and fast.seen and fast.seen[-1].id == id)  # noqa: B023
    assert [_id(await anext(slow)) for _ in range(3)] == ["b", "c", "d"]
    with pytest.raises(WatchTooSlow):
        await anext(slow)
    await fast.saw(*"abcdefgh")
    await fast.stop()


async def test_when_the_last_one_leaves_nobody_reads_and_the_next_starts_anew(changes: Changes, database: str) -> None:
    watcher = Watcher(changes)
    await joined(changes)
    reader = inside.reader_of(changes)
    assert reader is not None
    await watcher.stop()
    await until(reader.done)
    assert inside.reader_of(changes) is None
    await insert(database, "unseen")
    later = Watcher(changes)
    await joined(changes)
    await insert(database, "a")
    changes.wake()
    await later.saw("a")
    await later.stop()


async def test_a_postgresql_that_fails_for_a_while_is_survived(
    changes: Changes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    watcher = Watcher(changes)
    await joined(changes)
    await run(database, "ALTER TABLE cache_sidecar.outbox RENAME TO away")
    await run(database, "SELECT pg_sleep(0.05)")
    await run(database, "ALTER TABLE cache_sidecar.away RENAME TO outbox")
    await insert(database, "a")
    await watcher.saw("a")
    await watcher.stop()


async def test_without_postgresql_a_watch_is_refused() -> None:
    async with open_database("postgresql://nobody@127.0.0.1:1/none", seconds=0.2) as nobody:
        changes = Changes(Outbox(nobody))
        watcher = Watcher(changes)
        with pytest.raises(TierFailed):
            await watcher.task
        assert inside.watchers_of(changes) == set()


async def test_what_is_pruned_while_a_watcher_catches_up_is_told_not_skipped(
    changes: Changes, opened: Database, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    first = await insert(database, "a")
    await insert(database, "b", "c", "d", "e", "f")
    stream = changes.watch("product", first)
    assert await anext(stream) == Started(first)
    assert _id(await anext(stream)) == "b"
    newest = (await Outbox(opened).after(0, limit=10))[-1]
    await remember(database, "eu", newest.position)
    await run(database, "DELETE FROM cache_sidecar.outbox WHERE id IN ('a', 'b', 'c', 'd')")
    assert _id(await anext(stream)) == "c"
    with pytest.raises(ChangesExpired):
        await anext(stream)


@pytest.mark.parametrize("query", ["position", "after"])
async def test_watchers_that_begin_together_leave_postgresql_to_others(
    changes: Changes, database: str, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    first = await insert(database, "a")
    anchor = Watcher(changes)
    await joined(changes)
    await insert(database, "b")
    changes.wake()
    await anchor.saw("b")
    gate, ask = Gate(), getattr(inside.outbox_of(changes), query)

    async def held(*arguments: Any, **more: Any) -> Any:
        if query == "position" or more.get("dataset"):  # not the reader, which reads for all
            await gate.passed()
        return await ask(*arguments, **more)

    monkeypatch.setattr(inside.outbox_of(changes), query, held)
    gate.close()
    watchers = [Watcher(changes, after=first) for _ in range(50)]
    await until(lambda: gate.waiting == module.STARTING)
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert gate.waiting == module.STARTING
    gate.open()
    for watcher in watchers:
        await watcher.saw("b")
    for watcher in [anchor, *watchers]:
        await watcher.stop()


# Where a watch starts


def hold(outbox: Outbox, query: str, number: int, after: bool, patch: pytest.MonkeyPatch) -> Gate:
    """Returns a closed gate before, or behind, one of the calls of a query."""
    gate, ask, calls = Gate(), getattr(outbox, query), 0
    gate.close()

    async def held(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        is_it = calls == number
        if is_it and not after:
            await gate.passed()
        found = await ask(*arguments)
        if is_it and after:
            await gate.passed()
        return found

    patch.setattr(outbox, query, held)
    return gate


# The second position is that of the reader of all watchers, which starts with the first one.
STEPS = [("position", 1), ("version", 1), ("position", 2)]
MOMENTS = [(query, number, after) for query, number in STEPS for after in (False, True)]


@pytest.mark.parametrize("moment", [*MOMENTS, "started", "listed"], ids=str)
async def test_what_is_committed_while_a_watch_starts_is_listed_or_told(
    changes: Changes, database: str, monkeypatch: pytest.MonkeyPatch, moment: tuple[str, int, bool] | str
) -> None:
    await insert(database, "a")
    gate = hold(inside.outbox_of(changes), *moment, monkeypatch) if isinstance(moment, tuple) else Gate()
    stream = changes.watch("product", 0)
    starting = asyncio.ensure_future(anext(stream))
    if isinstance(moment, tuple):
        await gate.reached()
        await insert(database, "b")
        gate.open()
    assert isinstance(await starting, Started)
    if moment == "started":
        await insert(database, "b")
    listed = {id for (id,) in await run(database, "SELECT product_id FROM cache_sidecar.products")}
    if moment == "listed":
        await insert(database, "b")
    await insert(database, "last")
    changes.wake()
    told: list[str] = []
    while "last" not in told:
        told.append(_id(await anext(stream)))
    assert listed | set(told) == {"a", "b", "last"}
    assert "a" not in told
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_watch_can_be_resumed_where_it_started(changes: Changes, opened: Database, database: str) -> None:
    assert await _start(changes) == 0, "there was no change yet"
    newest = await insert(database, "a", "b")
    start = await _start(changes)
    assert start == newest
    await insert(database, "c")
    resumed = Watcher(changes, start)
    await resumed.saw("c")
    assert resumed.started == Started(start)
    await resumed.stop()
    await run(database, "DELETE FROM cache_sidecar.outbox")
    assert await _start(changes) == 0, "nothing is kept that could be resumed after"


async def _start(changes: Changes) -> int:
    watcher = Watcher(changes)
    await until(lambda: watcher.started)
    await watcher.stop()
    assert watcher.started is not None
    return watcher.started.version
