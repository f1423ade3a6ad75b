"""Gathering: a batch whose callers come from another one, where they did not find their ids, lets its queries grow."""

import asyncio

import pytest

from cache_sidecar.tiers.path import batch as batches
from cache_sidecar.tiers.path.batch import Batch
from tests.gates import Loads, make_batch, started, turns
from tests.sidecars import until


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def source_loads() -> Loads:
    return Loads()


@pytest.fixture
def source(source_loads: Loads) -> Batch[str]:
    return make_batch(source_loads)


async def miss(source: Batch[str], store: Batch[str], id: str) -> str:
    """Asks the source for what is not there, then the store, as a read does."""
    await source.get([f"-{id}"])
    return (await store.get([id]))[id]


def slow_clock(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Sets the times of gathering: what is not named never comes."""
    for name in ("LONGEST", "HOLD", "PAUSE"):
        monkeypatch.setattr(batches, name, seconds.get(name, 3600.0))
    monkeypatch.setattr(batches, "LOOK", 0.0)


async def test_a_lone_id_does_not_wait_to_be_gathered(
    loads: Loads, source: Batch[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch)
    asked = asyncio.create_task(miss(source, make_batch(loads, after=source), "a"))
    await turns(20)
    assert loads.calls == [["a"]]
    assert await asked == "A"


async def test_ids_wait_for_the_callers_that_are_still_at_the_source(
    loads: Loads, source: Batch[str], source_loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch)
    store = make_batch(loads, after=source)
    source_loads.gate.close()
    behind = asyncio.create_task(miss(source, store, "b"))
    await source_loads.gate.reached()
    ahead = asyncio.create_task(store.get(["a"]))
    await turns(50)
    assert loads.calls == []
    source_loads.gate.open()
    await asyncio.gather(behind, ahead)
    assert loads.calls == [["a", "b"]]


async def test_a_caller_that_left_the_source_for_good_is_not_waited_for(
    loads: Loads, source: Batch[str], source_loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch)
    store = make_batch(loads, after=source)
    source_loads.gate.close()
    leaving = asyncio.create_task(miss(source, store, "b"))
    await source_loads.gate.reached()
    ahead = asyncio.create_task(store.get(["a"]))
    await turns(5)
    leaving.cancel()
    async with asyncio.timeout(10):
        await ahead
    assert loads.calls == [["a"]]
    source_loads.gate.open()


async def test_a_source_that_hangs_is_not_waited_for_long(
    loads: Loads, source: Batch[str], source_loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch, LONGEST=0.01)
    source_loads.gate.close()
    hanging = asyncio.create_task(source.get(["b"]))
    await source_loads.gate.reached()
    async with asyncio.timeout(10):
        assert await make_batch(loads, after=source).get(["a"]) == {"a": "A"}
    source_loads.gate.open()
    await hanging


async def test_ids_that_come_during_a_load_wait_for_its_end(
    loads: Loads, source: Batch[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch)
    store = make_batch(loads, after=source)
    loads.gate.close()
    callers = [asyncio.create_task(store.get(["a"]))]
    await started(callers[0], loads)
    for id in "bcd":
        callers.append(asyncio.create_task(store.get([id])))
        await turns(10)
    loads.gate.open()
    await asyncio.gather(*callers)
    assert loads.calls == [["a"], ["b", "c", "d"]]


async def test_a_load_that_hangs_is_not_waited_for_long(
    loads: Loads, source: Batch[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch, HOLD=0.01)
    store = make_batch(loads, after=source)
    loads.gate.close()
    first = asyncio.create_task(store.get(["a"]))
    await started(first, loads)
    second = asyncio.create_task(store.get(["b"]))
    await until(lambda: len(loads.calls) == 2)
    loads.gate.open()
    await asyncio.gather(first, second)


async def test_a_burst_waits_for_its_pause(loads: Loads, source: Batch[str], monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch, PAUSE=0.1)
    store = make_batch(loads, after=source)
    ids = [f"id{number}" for number in range(batches.BURST * 3)]
    callers = [asyncio.create_task(store.get(ids[: batches.BURST]))]
    for id in ids[batches.BURST :]:
        await turns(3)
        callers.append(asyncio.create_task(store.get([id])))
    await asyncio.gather(*callers)
    assert loads.calls == [ids]


async def test_ids_that_come_farther_apart_are_no_burst(
    loads: Loads, source: Batch[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_clock(monkeypatch, PAUSE=1.0)
    store, loop = make_batch(loads, after=source), asyncio.get_running_loop()
    now = [loop.time()]
    monkeypatch.setattr(loop, "time", lambda: now[0])
    ids = [f"id{number}" for number in range(batches.BURST * 3)]
    for id in ids:
        now[0] += 1.01 / (batches.BURST - 1)
        asked = asyncio.create_task(store.get([id]))
        await turns(20)
        assert asked.done()
    assert loads.calls == [[id] for id in ids]


async def test_a_full_batch_does_not_wait(loads: Loads, source: Batch[str], monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch)
    store = make_batch(loads, ids=batches.BURST, after=source)
    async with asyncio.timeout(10):
        await store.get([f"id{number}" for number in range(batches.BURST)])
