"""The line of those who want one product."""

import asyncio

import pytest

from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.inventory.stock import Bucket, BucketRecord, ProductStock
from cache_sidecar.inventory.wait_queue import WaitQueue


async def queue(line: WaitQueue, *quantities: int) -> list[asyncio.Task[ProductStock | None]]:
    tasks = [asyncio.get_running_loop().create_task(line.enter(quantity)) for quantity in quantities]
    await settle()
    return tasks


def known(available: int) -> ProductStock:
    return ProductStock([Bucket("a", BucketRecord(available, 0, 1, 0, 0, 0, 0), 1)], ())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def done(tasks: list[asyncio.Task[ProductStock | None]]) -> list[bool]:
    return [task.done() for task in tasks]


async def test_so_many_go_on_and_the_others_wait_in_order() -> None:
    line = WaitQueue(2)
    tasks = await queue(line, 1, 1, 1, 1)
    assert done(tasks) == [True, True, False, False]
    line.leave()
    await settle()
    assert done(tasks) == [True, True, True, False]
    for _ in range(3):
        line.leave()
    await settle()
    assert [task.result() for task in tasks] == [None] * 4
    assert line.is_empty


async def test_nobody_overtakes() -> None:
    line = WaitQueue(1)
    tasks = await queue(line, 1, 1)
    line.leave()
    late = await queue(line, 1)
    assert done(tasks + late) == [True, True, False]


async def test_those_who_want_more_than_is_left_are_called_out() -> None:
    line, news = WaitQueue(1), known(2)
    tasks = await queue(line, 1, 3, 2, 9)
    line.note_shortage(news)
    await settle()
    assert done(tasks) == [True, True, False, True]
    assert (tasks[1].result(), tasks[3].result()) == (news, news)
    line.leave()
    await settle()
    assert tasks[2].result() is None
    assert not line.is_empty


async def test_somebody_who_goes_away_leaves_his_place() -> None:
    line = WaitQueue(1)
    tasks = await queue(line, 1, 1, 1)
    tasks[1].cancel()
    await settle()
    line.leave()
    await settle()
    assert done(tasks) == [True, True, True]
    assert tasks[1].cancelled()


async def test_somebody_who_goes_away_when_it_is_his_turn_passes_it_on() -> None:
    line = WaitQueue(1)
    tasks = await queue(line, 1, 1, 1)
    line.leave()
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    line.leave()
    assert line.is_empty


@pytest.mark.parametrize("news", ["leave", "learn"])
async def test_somebody_who_went_away_is_passed_over(news: str) -> None:
    line = WaitQueue(1)
    tasks = await queue(line, 5, 5, 1)
    tasks[1].cancel()
    # Before the cancelled task has run.
    if news == "leave":
        line.leave()
    else:
        line.note_shortage(known(2))
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done() is (news == "leave")


async def test_somebody_called_out_who_goes_away_has_no_turn_to_pass_on() -> None:
    line = WaitQueue(1)
    tasks = await queue(line, 1, 5, 1)
    line.note_shortage(known(2))
    tasks[1].cancel()
    await settle()
    assert not tasks[2].done()


@pytest.mark.parametrize("bounds", [{"turns": 0}, {"max_waiting": 0}])
def test_bounds_have_to_make_sense(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ReservationAdmission(None, None, None, every_row=str, **bounds)  # type: ignore[arg-type]
