"""Background tasks are kept until they end, their failures are logged, and they can be stopped."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core import tasks as module
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.core.tasks import BackgroundTasks
from tests.support.until import until


class Counted:
    """Work that counts its runs, and waits in each until it may go on."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        await self.may_end.wait()


class Failing:
    """Work for a poll loop that fails as long as it has an error."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.runs = 0

    def run(self) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error

    async def run_async(self) -> None:
        await asyncio.sleep(0)
        self.run()

    async def several_more(self) -> None:
        wanted = self.runs + 3
        await until(lambda: self.runs >= wanted)


@pytest.fixture
async def background() -> BackgroundTasks:
    return BackgroundTasks()


async def fail(error: BaseException) -> NoReturn:
    raise error


async def test_a_task_is_held_until_it_ends(background: BackgroundTasks) -> None:
    work = Counted()
    task = background.spawn(work.run())
    assert background.running == {task}
    work.may_end.set()
    await background.join()
    assert task.done()
    assert not background.running


@pytest.mark.parametrize(
    ("error", "count"), [(ValueError("a defect"), 1), (TierFailed(Tier.L2, Failure.REFUSED), 0), (asyncio.CancelledError(), 0)]
)
async def test_only_defects_are_logged(background: BackgroundTasks, error: BaseException, count: int) -> None:
    with capture_logs() as logs:
        background.spawn(fail(error))
        await background.join()
        await asyncio.sleep(0)
    assert [(line["event"], line["task"]) for line in logs] == [("background work failed", "fail")] * count


async def test_a_caller_may_report_a_failure_itself(background: BackgroundTasks) -> None:
    with capture_logs() as logs:
        task = background.spawn(fail(ValueError("a defect")), log_failures=False)
        with pytest.raises(ValueError, match="a defect"):
            await task
    assert logs == []


async def test_one_task_per_key_runs(background: BackgroundTasks) -> None:
    first, second = Counted(), Counted()
    background.once(("a", 1), first.run)
    background.once(("a", 1), first.run)
    background.once(("a", 2), second.run)
    await until(lambda: (first.runs, second.runs) == (1, 1))
    first.may_end.set()
    await until(lambda: len(background.running) == 1)
    background.once(("a", 1), first.run)
    await until(lambda: first.runs == 2)
    await background.stop()


async def test_what_is_too_much_is_not_started() -> None:
    background, work = BackgroundTasks(max_running=2), Counted()
    assert background.try_spawn(work.run())
    background.once("a", work.run)
    assert not background.try_spawn(work.run())
    background.once("b", work.run)
    await asyncio.sleep(0)
    assert work.runs == 2
    work.may_end.set()
    await background.join()
    background.once("b", work.run)
    await background.join()
    assert work.runs == 3, "its key was not taken when there was no room"


async def test_joining_waits_for_what_tasks_start(background: BackgroundTasks) -> None:
    work = Counted()

    async def start_another() -> None:
        await asyncio.sleep(0)
        background.spawn(work.run())

    background.spawn(start_another())
    joining = asyncio.ensure_future(background.join())
    await until(lambda: work.runs == 1)
    assert not joining.done()
    work.may_end.set()
    await joining


async def test_a_join_that_is_cancelled_leaves_the_tasks_running(background: BackgroundTasks) -> None:
    task = background.spawn(Counted().run())
    joining = asyncio.ensure_future(background.join())
    await asyncio.sleep(0)
    joining.cancel()
    await asyncio.gather(joining, return_exceptions=True)
    assert not task.done()
    assert not task.cancelling()
    await background.stop()
    assert task.cancelled()


async def test_a_swallowed_cancellation_is_repeated(background: BackgroundTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_EVERY", 0.001)
    began = asyncio.Event()

    async def stubborn() -> None:
        began.set()
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = background.spawn(stubborn())
    await began.wait()
    await background.stop()
    assert task.cancelled()
    assert not background.running


@pytest.mark.parametrize("of", [lambda work: work.run, lambda work: work.run_async], ids=["sync", "async"])
async def test_a_poll_goes_on_after_a_defect_and_logs_it_once(
    background: BackgroundTasks, of: Callable[[Failing], Callable[[], object]]
) -> None:
    work = Failing(ValueError("a defect"))
    with capture_logs() as logs:
        background.poll(0.001, of(work))
        await work.several_more()
        assert [line["event"] for line in logs] == ["background work failed"]
        work.error = None
        await work.several_more()
        work.error = ValueError("another")
        await work.several_more()
    assert len(logs) == 2
    assert "Failing.run" in logs[1]["task"]
    await background.stop()


async def test_a_poll_leaves_to_others_what_they_have_reported(background: BackgroundTasks) -> None:
    work = Failing(TierFailed(Tier.L2, Failure.REFUSED))
    with capture_logs() as logs:
        background.poll(0.001, work.run)
        await work.several_more()
    assert logs == []
    await background.stop()


async def test_a_poll_may_begin_later_and_choose_its_pause(background: BackgroundTasks) -> None:
    late, work = Failing(None), Failing(None)
    background.poll(0.001, late.run, delay=60)
    background.poll(lambda: 0.001 if work.runs < 3 else 60, work.run)
    await work.several_more()
    await asyncio.sleep(0.01)
    assert (late.runs, work.runs) == (0, 3)
    await background.stop()


async def test_work_that_has_ended_is_started_again_even_before_its_callbacks_have_run(background: BackgroundTasks) -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(len(runs))

    background.once("key", work)
    background.once("key", work)
    await asyncio.sleep(0)  # the work runs and ends; its callbacks are still to come
    assert (runs, len(background.running)) == ([0], 1)
    background.once("key", work)
    await background.join()
    assert runs == [0, 1]
    background.once("key", work)
    await background.join()
    assert runs == [0, 1, 2]


def test_a_lasting_problem_is_logged_once_until_it_is_over() -> None:
    limit = LogLimit()
    assert [limit.should_log() for _ in range(3)] == [True, False, False]
    limit.reset()
    assert limit.should_log()


def test_a_lasting_problem_is_logged_every_so_often() -> None:
    times = iter([0.0, 1.0, 30.0, 59.0, 60.0])
    limit = LogLimit(every=60, monotonic=lambda: next(times))
    assert limit.should_log()
    assert limit.count == 1
    assert not any(limit.should_log() for _ in range(3))
    assert limit.should_log()
    assert limit.count == 4
