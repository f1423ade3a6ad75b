"""The guard: bounds, time limits, and the breaker. Work is held by gates, time is moved by hand."""

import asyncio

import pytest

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, NotFound, Operation, Tier, TierFailed
from cache_sidecar.tiers.resilience.breaker import BREAK_AFTER, BREAK_FOR, Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from tests.support.clocks import ManualClock
from tests.support.gates import Gate
from tests.support.until import until

LONG = 60.0


def guard(clock: ManualClock | None = None, *, timeout: float = LONG, running: int = 1, waiting: int = 1) -> Guard:
    breaker = Breaker(Tier.L2, clock=clock or ManualClock())
    return Guard(Tier.L2, timeout=timeout, max_running=running, max_waiting=waiting, breaker=breaker)


async def answer() -> str:
    return "answer"


def failing(failure: Failure = Failure.UNREACHABLE) -> TierFailed:
    return TierFailed(Tier.L2, failure)


async def fail(of: Guard, error: BaseException | None = None, *, times: int = 1) -> None:
    async def work() -> None:
        raise error or failing()

    for _ in range(times):
        with pytest.raises((TierFailed, NotFound, KeyError)):
            await of.run(work)


async def failure_of(of: Guard) -> Failure | None:
    try:
        await of.run(answer)
    except TierFailed as error:
        return error.failure
    return None


async def trip(of: Guard) -> None:
    await fail(of, times=BREAK_AFTER)
    assert of.is_open


@pytest.mark.parametrize(("timeout", "running", "waiting"), [(0, 1, 1), (-1.0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_bounds_are_checked(timeout: float, running: int, waiting: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        guard(timeout=timeout, running=running, waiting=waiting)


async def test_the_result_is_passed_on() -> None:
    assert await guard().run(answer) == "answer"


async def test_a_failure_is_passed_on_and_counted() -> None:
    of = guard()
    await fail(of, failing(Failure.REFUSED))
    assert of.errors == 1


async def test_a_defect_is_passed_on_as_it_is() -> None:
    of = guard()
    await fail(of, KeyError("defect"), times=BREAK_AFTER + 1)
    assert not of.is_open


# The breaker


async def test_the_breaker_opens_after_failures_in_a_row() -> None:
    of = guard()
    await fail(of, times=BREAK_AFTER - 1)
    assert not of.is_open
    await fail(of)
    assert of.is_open
    assert await failure_of(of) is Failure.UNREACHABLE


async def test_a_success_in_between_starts_the_count_again() -> None:
    of = guard()
    await fail(of, times=BREAK_AFTER - 1)
    await of.run(answer)
    await fail(of, times=BREAK_AFTER - 1)
    assert not of.is_open


@pytest.mark.parametrize("error", [failing(Failure.BUSY), failing(Failure.REFUSED), NotFound("product", "x")])
async def test_an_answer_is_no_sign_that_the_tier_is_away(error: Exception) -> None:
    of = guard()
    await fail(of, error, times=BREAK_AFTER * 2)
    assert not of.is_open
    assert await failure_of(of) is None


async def test_a_wrong_request_shows_that_the_tier_answers() -> None:
    of = guard()
    await fail(of, times=BREAK_AFTER - 1)
    await fail(of, NotFound("product", "x"))
    await fail(of, times=BREAK_AFTER - 1)
    assert not of.is_open


async def test_an_open_breaker_does_not_start_the_work() -> None:
    of, started = guard(), False
    await trip(of)

    async def work() -> None:
        nonlocal started
        started = True

    with pytest.raises(TierFailed):
        await of.run(work)
    assert not started


async def test_after_a_while_one_piece_of_work_is_let_through() -> None:
    clock = ManualClock()
    of, gate = guard(clock, running=2), Gate()
    await trip(of)
    clock.advance(BREAK_FOR)
    gate.close()
    trial = asyncio.create_task(of.run(gate.passed))
    await gate.reached()
    assert await failure_of(of) is Failure.UNREACHABLE
    gate.open()
    await trial
    assert not of.is_open
    assert await failure_of(of) is None


async def test_a_failed_trial_keeps_it_open_for_as_long_again() -> None:
    clock = ManualClock()
    of = guard(clock)
    await trip(of)
    clock.advance(BREAK_FOR)
    await fail(of)
    clock.advance(BREAK_FOR / 2)
    assert await failure_of(of) is Failure.UNREACHABLE
    clock.advance(BREAK_FOR / 2)
    assert await failure_of(of) is None


async def test_a_cancelled_trial_leaves_the_next_one() -> None:
    clock = ManualClock()
    of, gate = guard(clock), Gate()
    await trip(of)
    clock.advance(BREAK_FOR)
    gate.close()
    trial = asyncio.create_task(of.run(gate.passed))
    await gate.reached()
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    clock.advance(BREAK_FOR)
    assert await failure_of(of) is None


# Time and bounds


async def test_work_that_hangs_is_a_timeout() -> None:
    of, gate = guard(timeout=0.01), Gate()
    gate.close()
    with pytest.raises(TierFailed) as caught:
        await of.run(gate.passed)
    assert (caught.value.tier, caught.value.failure) == (Tier.L2, Failure.TIMEOUT)


async def test_hanging_work_opens_the_breaker() -> None:
    of, gate = guard(timeout=0.01), Gate()
    gate.close()
    for _ in range(BREAK_AFTER):
        with pytest.raises(TierFailed):
            await of.run(gate.passed)
    assert of.is_open


async def test_a_timeout_inside_the_work_is_the_tier_s() -> None:
    async def work() -> None:
        raise TimeoutError

    with pytest.raises(TierFailed) as caught:
        await guard().run(work)
    assert caught.value.failure is Failure.TIMEOUT


async def test_over_the_bound_it_is_busy_at_once() -> None:
    of, gate = guard(running=1, waiting=1), Gate()
    gate.close()
    running = asyncio.create_task(of.run(gate.passed))
    await gate.reached()
    waiting = asyncio.create_task(of.run(answer))
    await asyncio.sleep(0)
    assert await failure_of(of) is Failure.BUSY
    assert not of.is_open
    gate.open()
    await running
    assert await waiting == "answer"
    assert await failure_of(of) is None


async def test_waiting_for_others_too_long_is_busy_and_says_nothing_of_the_tier() -> None:
    slow, gate, end = guard(timeout=0.1, running=1, waiting=BREAK_AFTER), Gate(), Gate()
    gate.close()
    end.close()

    async def stubborn() -> None:
        try:
            await gate.passed()
        finally:
            await end.passed()  # its place is not free before that, time or not

    running = asyncio.create_task(slow.run(stubborn))
    await gate.reached()
    waiting = [asyncio.create_task(slow.run(answer)) for _ in range(BREAK_AFTER)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [error.failure for error in outcomes if isinstance(error, TierFailed)] == [Failure.BUSY] * BREAK_AFTER
    assert not slow.is_open
    end.open()
    await asyncio.gather(running, return_exceptions=True)


async def test_work_that_waits_is_not_started() -> None:
    of, gate, started = guard(), Gate(), False
    gate.close()
    running = asyncio.create_task(of.run(gate.passed))
    await gate.reached()

    async def work() -> None:
        nonlocal started
        started = True

    waiting = asyncio.create_task(of.run(work))
    await asyncio.sleep(0)
    assert not started
    gate.open()
    await asyncio.gather(running, waiting)
    assert started


@pytest.mark.parametrize("cancelled", ["running", "waiting"])
async def test_cancelled_work_gives_its_place_back(cancelled: str) -> None:
    of, gate = guard(running=1, waiting=1), Gate()
    gate.close()
    tasks = {"running": asyncio.create_task(of.run(gate.passed))}
    await gate.reached()
    tasks["waiting"] = asyncio.create_task(of.run(answer))
    await asyncio.sleep(0)
    tasks[cancelled].cancel()
    await asyncio.gather(tasks[cancelled], return_exceptions=True)
    gate.open()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    gate.close()
    again = asyncio.create_task(of.run(gate.passed))
    more = asyncio.create_task(of.run(answer))
    await gate.reached()
    assert await failure_of(of) is Failure.BUSY
    gate.open()
    await asyncio.gather(again, more)


# Tries


class Failing:
    """Work that fails so often, then succeeds."""

    def __init__(self, failure: Failure, times: int) -> None:
        self.left, self.runs = times, 0
        self._failure = failure

    async def __call__(self) -> str:
        self.runs += 1
        if self.left:
            self.left -= 1
            raise TierFailed(Tier.STORE, self._failure)
        return "answer"


@pytest.mark.parametrize(
    ("failure", "operation", "runs"),
    [
        (Failure.UNREACHABLE, Operation.READ, 2),
        (Failure.CONFLICT, Operation.READ, 3),
        (Failure.CONFLICT, Operation.WRITE, 3),
        (Failure.UNREACHABLE, Operation.WRITE, 1),
        (Failure.TIMEOUT, Operation.READ, 1),
    ],
)
async def test_work_is_tried_as_often_as_the_table_says(failure: Failure, operation: Operation, runs: int) -> None:
    of, once, always = guard(), Failing(failure, runs - 1), Failing(failure, 99)
    assert await of.run(once, operation) == "answer"
    with pytest.raises(TierFailed) as caught:
        await of.run(always, operation)
    assert (caught.value.failure, once.runs, always.runs) == (failure, runs, runs)


async def test_tries_that_fail_together_count_as_one_failure() -> None:
    of = guard()
    for _ in range(BREAK_AFTER):
        assert not of.is_open
        with pytest.raises(TierFailed):
            await of.run(Failing(Failure.UNREACHABLE, 99), Operation.READ)
    assert of.is_open


async def test_the_time_is_for_all_tries_together() -> None:
    of, gate = guard(timeout=0.1), Gate()
    gate.close()
    failing = Failing(Failure.UNREACHABLE, 1)

    async def work() -> str:
        if failing.runs:
            await gate.passed()
        return await failing()

    with pytest.raises(TierFailed) as caught:
        await of.run(work, Operation.READ)
    assert (caught.value.failure, failing.runs) == (Failure.TIMEOUT, 1)


async def test_who_stands_in_line_when_the_breaker_opens_is_failed_at_once() -> None:
    of, gate, started = guard(waiting=BREAK_AFTER), Gate(), 0
    await fail(of, times=BREAK_AFTER - 1)
    gate.close()

    async def work() -> None:
        nonlocal started
        started += 1
        await gate.passed()
        raise failing()

    tasks = [asyncio.create_task(of.run(work)) for _ in range(BREAK_AFTER)]
    await gate.reached()
    gate.open()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {outcome.failure for outcome in outcomes if isinstance(outcome, TierFailed)} == {Failure.UNREACHABLE}
    assert (len(outcomes), started) == (BREAK_AFTER, 1)


async def test_without_a_breaker_every_piece_of_work_runs() -> None:
    of = Guard(Tier.L2, timeout=LONG, max_running=1, max_waiting=1)
    await fail(of, times=BREAK_AFTER * 2)
    assert not of.is_open
    assert await of.run(answer) == "answer"


# A tier that hangs


async def test_with_a_probe_no_caller_waits_for_a_tier_that_hangs() -> None:
    """Without it, each caller who is let through to see waits for as long as work may take."""
    clock, gate, probes, started = ManualClock(), Gate(), 0, False
    of = guard(clock)
    gate.close()

    async def probe() -> None:
        nonlocal probes
        probes += 1
        await gate.passed()

    async def work() -> None:
        nonlocal started
        started = True

    of.probe = probe
    await trip(of)
    for _ in range(3):
        clock.advance(BREAK_FOR)
        with pytest.raises(TierFailed):
            await of.run(work)
    assert (probes, started) == (1, False), "one looks for all of them"
    gate.open()
    await until(lambda: not of.is_open)
    assert await failure_of(of) is None


async def test_who_finds_the_tier_back_is_served() -> None:
    clock = ManualClock()
    of = guard(clock)
    of.probe = answer
    await trip(of)
    clock.advance(BREAK_FOR)
    assert await failure_of(of) is None
    assert not of.is_open


@pytest.mark.parametrize("error", [failing(), failing(Failure.TIMEOUT)])
async def test_a_probe_that_fails_leaves_the_breaker_open(error: TierFailed) -> None:
    clock, probes = ManualClock(), 0
    of = guard(clock)

    async def probe() -> None:
        nonlocal probes
        probes += 1
        raise error

    of.probe = probe
    await trip(of)
    for _ in range(3):
        clock.advance(BREAK_FOR)
        assert await failure_of(of) is Failure.UNREACHABLE
    assert (probes, of.is_open) == (3, True)


async def test_who_is_refused_is_told_why_the_tier_failed() -> None:
    """`check.py` passes that on as the reason: a bare "not reachable" would take the place of the server's own words."""
    clock, gate, probing = ManualClock(), Gate(), True
    of = guard(clock)
    words = "FATAL: password authentication failed"

    async def probe() -> None:
        if probing:
            raise TierFailed(Tier.L2, Failure.UNREACHABLE, words)
        await gate.passed()

    async def held() -> None:
        await gate.passed()
        raise TierFailed(Tier.L2, Failure.UNREACHABLE, words)

    async def detail() -> str:
        with pytest.raises(TierFailed) as caught:
            await of.run(answer)
        return caught.value.detail

    gate.close()
    await fail(of, failing(), times=BREAK_AFTER - 1)
    first, second = asyncio.create_task(of.run(held)), asyncio.create_task(detail())
    await gate.reached()
    gate.open()
    assert await second == words, "known since it stood in line"
    with pytest.raises(TierFailed):
        await first
    of.probe = probe
    assert await detail() == words, "refused at once"
    clock.advance(BREAK_FOR)
    assert await detail() == words, "the probe failed"
    gate.close()
    probing = False
    clock.advance(BREAK_FOR)
    assert await detail() == words, "the probe hangs"
    gate.open()


def test_a_breaker_counts_how_often_it_opened_however_many_failures_follow() -> None:
    clock, dependency = ManualClock(), Dependencies(is_logged=False).of("redis", "a:1")
    breaker = Breaker(Tier.L2, clock=clock, dependency=dependency)
    assert dependency.breakers == {"reached": breaker}
    for _ in range(BREAK_AFTER * 2):
        breaker.record_failure(TierFailed(Tier.L2, Failure.TIMEOUT))
    assert (breaker.is_open, breaker.opened) == (True, 1)
    breaker.record_success()
    for _ in range(BREAK_AFTER):
        breaker.record_failure(TierFailed(Tier.L2, Failure.TIMEOUT))
    assert breaker.opened == 2
