"""Coalescing. Loads are held by gates; what is asked for meanwhile is counted."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from cache_sidecar.core.errors import Overloaded
from cache_sidecar.tiers.path.batch import Batch
from tests.support.gates import Gate, Loads, make_batch, started, turns


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bounds_are_checked(loads: Loads, bounds: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_batch(loads, ids=bounds[0], running=bounds[1], waiting=bounds[2])


async def test_all_ids_of_one_tick_go_out_together(loads: Loads) -> None:
    batch = make_batch(loads)
    first, second = await asyncio.gather(batch.get(["a", "b"]), batch.get(["c"]))
    assert (first, second) == ({"a": "A", "b": "B"}, {"c": "C"})
    assert loads.calls == [["a", "b", "c"]]


async def test_what_is_not_there_is_left_out(loads: Loads) -> None:
    assert await make_batch(loads).get(["a", "no-such"]) == {"a": "A"}


async def test_no_ids_are_no_load(loads: Loads) -> None:
    assert await make_batch(loads).get([]) == {}
    assert loads.calls == []


async def test_an_id_asked_for_twice_is_loaded_once(loads: Loads) -> None:
    batch = make_batch(loads)
    assert await batch.get(["a", "a"]) == {"a": "A"}
    assert loads.calls == [["a"]]


async def test_a_thousand_callers_of_one_id_are_one_load(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    callers = [asyncio.create_task(batch.get(["a"])) for _ in range(500)]
    await loads.gate.reached()
    callers += [asyncio.create_task(batch.get(["a"])) for _ in range(500)]
    await asyncio.sleep(0)
    loads.gate.open()
    assert await asyncio.gather(*callers) == [{"a": "A"}] * 1000
    assert loads.calls == [["a"]]
    assert (batch.loads, batch.coalesced) == (1, 999)


async def test_many_ids_go_out_in_chunks(loads: Loads) -> None:
    batch = make_batch(loads, ids=3, running=10)
    ids = list("abcdefgh")
    assert await batch.get(ids) == {id: id.upper() for id in ids}
    assert loads.calls == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]


async def test_so_many_loads_run_at_once_and_the_rest_follows(loads: Loads) -> None:
    batch = make_batch(loads, ids=2, running=2)
    loads.gate.close()
    work = asyncio.create_task(batch.get("abcdefg"))
    await started(work, loads)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(loads.calls) == 2
    loads.gate.open()
    assert len(await work) == 7
    assert [len(call) for call in loads.calls] == [2, 2, 2, 1]


async def test_ids_that_come_while_all_loads_run_follow_in_one(loads: Loads) -> None:
    batch = make_batch(loads, running=1)
    loads.gate.close()
    first = asyncio.create_task(batch.get(["a"]))
    await started(first, loads)
    later = [asyncio.create_task(batch.get([id])) for id in "bcd"]
    await asyncio.sleep(0)
    loads.gate.open()
    await asyncio.gather(first, *later)
    assert loads.calls == [["a"], ["b", "c", "d"]]


# Fresh, and out of date


async def test_fresh_does_not_join_a_load_under_way(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    first = asyncio.create_task(batch.get(["a"]))
    await started(first, loads)
    loads.suffix = "2"
    fresh = asyncio.create_task(batch.get(["a"], fresh=True))
    await asyncio.sleep(0)
    loads.gate.open()
    assert await asyncio.gather(first, fresh) == [{"a": "A"}, {"a": "A2"}]


async def test_fresh_joins_what_is_not_sent_yet(loads: Loads) -> None:
    batch = make_batch(loads)
    await asyncio.gather(batch.get(["a"]), batch.get(["a"], fresh=True))
    assert loads.calls == [["a"]]


async def test_later_callers_join_the_newest_load(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    first = asyncio.create_task(batch.get(["a"]))
    await started(first, loads)
    loads.suffix = "2"
    fresh = asyncio.create_task(batch.get(["a"], fresh=True))
    await turns(5)
    assert len(loads.calls) == 2
    third = asyncio.create_task(batch.get(["a"]))
    await asyncio.sleep(0)
    loads.gate.open()
    assert (await asyncio.gather(first, fresh, third))[2] == {"a": "A2"}
    assert len(loads.calls) == 2


async def test_the_older_load_s_end_does_not_hide_the_newer_one(loads: Loads) -> None:
    gates = [Gate(), Gate()]
    calls: list[list[str]] = []

    async def load(ids: Sequence[str]) -> Mapping[str, str]:
        calls.append(list(ids))
        number = len(calls) - 1
        await gates[number].passed()
        return dict.fromkeys(ids, str(number))

    batch = Batch(load, max_ids=5, max_running=5, max_waiting=5)
    for gate in gates:
        gate.close()
    first = asyncio.create_task(batch.get(["a"]))
    await gates[0].reached()
    second = asyncio.create_task(batch.get(["a"], fresh=True))
    await gates[1].reached()
    gates[0].open()
    await first
    third = asyncio.create_task(batch.get(["a"]))
    await asyncio.sleep(0)
    gates[1].open()
    assert await asyncio.gather(second, third) == [{"a": "1"}, {"a": "1"}]
    assert len(calls) == 2


async def test_after_detach_callers_start_a_load_of_their_own(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    before = asyncio.create_task(batch.get(["a", "b"]))
    await started(before, loads)
    loads.suffix = "2"
    batch.forget_in_flight("a")
    after = asyncio.create_task(batch.get(["a", "b"]))
    await asyncio.sleep(0)
    loads.gate.open()
    assert await asyncio.gather(before, after) == [{"a": "A", "b": "B"}, {"a": "A2", "b": "B"}]


async def test_after_detach_all_no_load_under_way_is_joined(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    before = asyncio.create_task(batch.get(["a", "b"]))
    await started(before, loads)
    loads.suffix = "2"
    batch.forget_all_in_flight()
    after = asyncio.create_task(batch.get(["a", "b"]))
    await asyncio.sleep(0)
    loads.gate.open()
    assert await asyncio.gather(before, after) == [{"a": "A", "b": "B"}, {"a": "A2", "b": "B2"}]


async def test_detaching_what_is_not_loaded_does_nothing(loads: Loads) -> None:
    batch = make_batch(loads)
    batch.forget_in_flight("a")
    assert await batch.get(["a"]) == {"a": "A"}


# Callers that leave, loads that fail


async def test_one_caller_s_cancellation_leaves_the_others(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    leaving, staying = (asyncio.create_task(batch.get(["a"])) for _ in range(2))
    await started(staying, loads)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    loads.gate.open()
    assert await staying == {"a": "A"}
    assert loads.calls == [["a"]]


async def test_a_load_whose_callers_all_left_ends_quietly(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.gate.close()
    loads.error = RuntimeError("nobody hears this")
    caller = asyncio.create_task(batch.get(["a"]))
    await started(caller, loads)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    loads.gate.open()
    await batch.close()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyError("x"), TimeoutError()])
async def test_every_caller_gets_the_error(loads: Loads, error: Exception) -> None:
    batch = make_batch(loads)
    loads.error = error
    outcomes = await asyncio.gather(*(batch.get([id]) for id in "aab"), return_exceptions=True)
    assert outcomes == [error] * 3
    loads.error = None
    assert await batch.get(["a"]) == {"a": "A"}


async def test_a_cancelled_load_ends_its_callers(loads: Loads) -> None:
    batch = make_batch(loads)
    loads.error = asyncio.CancelledError()
    caller = asyncio.create_task(batch.get(["a"]))
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await caller
    loads.error = None
    assert await batch.get(["a"]) == {"a": "A"}


async def test_one_chunk_s_error_leaves_the_other_chunks() -> None:
    async def load(ids: Sequence[str]) -> Mapping[str, str]:
        if "b" in ids:
            raise RuntimeError
        return {id: id.upper() for id in ids}

    batch = Batch(load, max_ids=1, max_running=5, max_waiting=5)
    good, bad = await asyncio.gather(batch.get(["a"]), batch.get(["b"]), return_exceptions=True)
    assert good == {"a": "A"}
    assert isinstance(bad, RuntimeError)


async def test_too_many_waiting_ids_are_refused_at_once(loads: Loads) -> None:
    batch = make_batch(loads, running=1, waiting=2)
    loads.gate.close()
    running = asyncio.create_task(batch.get(["a"]))
    await started(running, loads)
    waiting = asyncio.create_task(batch.get(["b", "c"]))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batch.get(["d"])
    joined = asyncio.create_task(batch.get(["a", "b"]))
    await asyncio.sleep(0)
    loads.gate.open()
    await asyncio.gather(running, waiting, joined)
    assert await batch.get(["d"]) == {"d": "D"}


# The end


async def tasks_left(work: Callable[[], object]) -> set[asyncio.Task[object]]:
    """Returns the tasks of batches that are left; in this loop others' come and go, too."""
    before = asyncio.all_tasks()
    await work()  # type: ignore[misc]
    return {task for task in asyncio.all_tasks() - before if "Batch." in task.get_coro().__qualname__}  # type: ignore[union-attr]


async def test_close_waits_for_what_runs_and_for_what_waits(loads: Loads) -> None:
    async def work() -> None:
        batch = make_batch(loads, ids=1, running=1)
        loads.gate.close()
        callers = [asyncio.create_task(batch.get([id])) for id in "abc"]
        await loads.gate.reached()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        loads.gate.open()
        await batch.close()

    assert await tasks_left(work) == set()
    assert loads.calls == [["a"], ["b"], ["c"]]


async def test_no_task_is_left_behind(loads: Loads) -> None:
    async def work() -> None:
        batch = make_batch(loads, ids=2, running=2)
        await asyncio.gather(*(batch.get([f"id{number % 7}"]) for number in range(50)))

    assert await tasks_left(work) == set()
