"""Gathering: a batch that runs several loads only while they are small, so that the queries of a burst grow instead."""

import asyncio

import pytest

from cache_sidecar.tiers.path import batch as batches
from cache_sidecar.tiers.path.batch import FEW, Batch
from tests.support.gates import Loads, make_batch, started, turns
from tests.support.until import until


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nothing go out because time passed, except in the test of that."""
    monkeypatch.setattr(batches, "HOLD", 3600.0)


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def source_loads() -> Loads:
    return Loads()


@pytest.fixture
def source(source_loads: Loads) -> Batch[str]:
    return make_batch(source_loads, running=1)


@pytest.fixture
def batch(loads: Loads, source: Batch[str]) -> Batch[str]:
    return make_batch(loads, after=source)


async def miss(source: Batch[str], store: Batch[str], id: str) -> str:
    """Asks the source for what is not there, then the store, as a read does."""
    await source.get([f"-{id}"])
    return (await store.get([id]))[id]


def ids_of(count: int, name: str = "id") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


async def hold_a_burst(batch: Batch[str], loads: Loads) -> asyncio.Task[dict[str, str]]:
    """Has as many ids loaded as others wait for; the load is held at the gate."""
    loads.gate.close()
    burst = asyncio.create_task(batch.get(ids_of(FEW, "burst")))
    await started(burst, loads)
    return burst


async def test_a_lone_id_goes_out_in_the_next_turn(batch: Batch[str], loads: Loads) -> None:
    future = asyncio.create_task(batch.get(["a"]))
    await turns(3)  # of the caller, of what takes the ids of its turn, of the load
    assert loads.calls == [["a"]]
    assert await future == {"a": "A"}


async def test_a_few_ids_that_come_one_after_the_other_do_not_wait(batch: Batch[str], loads: Loads) -> None:
    loads.gate.close()
    callers = []
    for id in "abcd":
        callers.append(asyncio.create_task(batch.get([id])))
        await turns(5)
    assert loads.calls == [["a"], ["b"], ["c"], ["d"]]
    loads.gate.open()
    await asyncio.gather(*callers)


async def test_what_comes_during_a_burst_goes_out_together_when_it_ends(batch: Batch[str], loads: Loads) -> None:
    callers = [await hold_a_burst(batch, loads)]
    for id in "abc":
        callers.append(asyncio.create_task(batch.get([id])))
        await turns(10)
    assert len(loads.calls) == 1
    loads.gate.open()
    await asyncio.gather(*callers)
    assert loads.calls == [ids_of(FEW, "burst"), ["a", "b", "c"]]


async def test_500_cold_ids_cost_at_most_3_loads(batch: Batch[str], loads: Loads) -> None:
    """As they come from a socket: one first, some in the next turn, the others while those are loaded."""
    loads.gate.close()
    ids, callers = ids_of(500), []
    for first, last in ((0, 1), (1, 1 + FEW), (1 + FEW, 200), (200, 499), (499, 500)):
        callers += [asyncio.create_task(batch.get([id])) for id in ids[first:last]]
        await turns(10)
    assert len(loads.calls) == 2
    loads.gate.open()
    await asyncio.gather(*callers)
    assert [len(call) for call in loads.calls] == [1, FEW, 500 - 1 - FEW]


async def test_a_burst_waits_for_the_callers_that_are_still_at_the_source(
    batch: Batch[str], loads: Loads, source: Batch[str], source_loads: Loads
) -> None:
    source_loads.gate.close()
    behind = [asyncio.create_task(miss(source, batch, "b"))]
    await source_loads.gate.reached()
    behind.append(asyncio.create_task(miss(source, batch, "c")))  # goes with the source's next load
    await turns(5)
    ahead = asyncio.create_task(batch.get(ids_of(FEW)))
    await turns(50)
    assert loads.calls == []
    source_loads.gate.open()
    await asyncio.gather(*behind, ahead)
    assert loads.calls == [[*ids_of(FEW), "b", "c"]]


async def test_it_does_not_wait_for_those_that_came_to_the_source_later(
    batch: Batch[str], loads: Loads, source: Batch[str], source_loads: Loads
) -> None:
    source_loads.gate.close()
    before = asyncio.create_task(miss(source, batch, "before"))
    await source_loads.gate.reached()
    burst = asyncio.create_task(batch.get(ids_of(FEW)))
    await turns(5)
    later = asyncio.create_task(source.get(["later"]))
    await turns(5)
    before.cancel()  # it leaves the source for good
    async with asyncio.timeout(10):
        await burst
    assert not later.done()
    source_loads.gate.open()
    await later


async def test_a_few_ids_do_not_wait_for_the_source(
    batch: Batch[str], loads: Loads, source: Batch[str], source_loads: Loads
) -> None:
    source_loads.gate.close()
    behind = asyncio.create_task(miss(source, batch, "b"))
    await source_loads.gate.reached()
    assert await batch.get(["a"]) == {"a": "A"}
    source_loads.gate.open()
    await behind
    assert loads.calls == [["a"], ["b"]]


async def test_a_source_that_hangs_is_not_waited_for_long(
    batch: Batch[str], loads: Loads, source: Batch[str], source_loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "HOLD", 0.01)
    source_loads.gate.close()
    hanging = asyncio.create_task(miss(source, batch, "b"))
    await source_loads.gate.reached()
    async with asyncio.timeout(10):
        await batch.get(ids_of(FEW))
    source_loads.gate.open()
    await hanging


async def test_500_cold_ids_that_come_in_eight_parts_by_way_of_the_source_cost_at_most_3_loads(
    batch: Batch[str], loads: Loads, source: Batch[str], source_loads: Loads
) -> None:
    """The server hands so many calls at a time to the event loop; each part is a load of the source's own."""
    source_loads.gate.close()
    callers = []
    for part in range(8):
        callers += [asyncio.create_task(miss(source, batch, f"{part}-{number}".replace("-", "."))) for number in range(63)]
        await turns(3)
        source_loads.gate.open()  # the load of the part before ends while this one comes
        source_loads.gate.close()
        await turns(1)
    source_loads.gate.open()
    async with asyncio.timeout(10):
        await asyncio.gather(*callers)
    assert len(loads.calls) <= 3


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()], ids=["fails", "is cancelled"])
async def test_the_end_of_a_load_that_fails_takes_along_what_waits(
    batch: Batch[str], loads: Loads, error: BaseException
) -> None:
    burst = await hold_a_burst(batch, loads)
    waiting = asyncio.create_task(batch.get(["a"]))
    await turns(5)
    loads.error = error
    loads.gate.open()
    await asyncio.gather(burst, return_exceptions=True)
    loads.error = None
    async with asyncio.timeout(10):
        await asyncio.gather(waiting, return_exceptions=True)
        assert await batch.get(["b"]) == {"b": "B"}
    assert [call for call in loads.calls if "a" in call] == [["a"]]


async def test_what_waits_is_loaded_although_the_callers_of_the_burst_have_left(batch: Batch[str], loads: Loads) -> None:
    burst = await hold_a_burst(batch, loads)
    waiting = asyncio.create_task(batch.get(["a"]))
    await turns(5)
    burst.cancel()
    batch.forget_all_in_flight()
    loads.gate.open()
    async with asyncio.timeout(10):
        assert await waiting == {"a": "A"}


async def test_a_caller_does_not_wait_longer_than_its_time_for_a_burst(batch: Batch[str], loads: Loads) -> None:
    burst = await hold_a_burst(batch, loads)
    with pytest.raises(TimeoutError):
        await batch.get(["a"], until=asyncio.get_running_loop().time())
    loads.gate.open()
    await burst
    await batch.close()
    assert loads.calls == [ids_of(FEW, "burst"), ["a"]]


async def test_a_load_that_hangs_is_not_waited_for_long(
    batch: Batch[str], loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    burst = await hold_a_burst(batch, loads)
    monkeypatch.setattr(batches, "HOLD", 0.01)
    waiting = []
    async with asyncio.timeout(10):
        while len(loads.calls) < 2:  # more come all the time, and do not prolong it
            waiting.append(asyncio.create_task(batch.get([f"id{len(waiting)}"])))
            await asyncio.sleep(0)
    assert not burst.done()
    loads.gate.open()
    await asyncio.gather(burst, *waiting)


async def test_no_more_than_allowed_run_although_all_hang(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "HOLD", 0.0)
    batch = make_batch(loads, running=2, after=make_batch(Loads()))
    loads.gate.close()
    callers = [asyncio.create_task(batch.get(ids_of(FEW, "first")))]
    await started(callers[0], loads)
    callers.append(asyncio.create_task(batch.get(ids_of(FEW, "second"))))
    await until(lambda: loads.gate.waiting == 2)
    callers.append(asyncio.create_task(batch.get(["a"])))
    await turns(20)
    assert len(loads.calls) == 2
    loads.gate.open()
    await asyncio.gather(*callers)
    assert loads.calls[2] == ["a"]


async def test_full_batches_do_not_wait(loads: Loads) -> None:
    batch = make_batch(loads, ids=FEW, after=make_batch(Loads()))
    burst = await hold_a_burst(batch, loads)
    full = asyncio.create_task(batch.get(ids_of(FEW)))
    await until(lambda: len(loads.calls) == 2)
    loads.gate.open()
    await asyncio.gather(burst, full)
    assert loads.calls == [ids_of(FEW, "burst"), ids_of(FEW)]


async def test_close_waits_for_what_a_burst_holds(batch: Batch[str], loads: Loads) -> None:
    burst = await hold_a_burst(batch, loads)
    waiting = asyncio.create_task(batch.get(["a"]))
    await turns(5)
    closing = asyncio.create_task(batch.close())
    await turns(5)
    assert not closing.done()
    loads.gate.open()
    await closing
    assert loads.calls[-1] == ["a"]
    await asyncio.gather(burst, waiting)
