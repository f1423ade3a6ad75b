"""What PostgreSQL is told of the use of sessions, and when."""

import asyncio
from collections.abc import Mapping

import pytest

from cache_sidecar.core.errors import Failure, Overloaded, Tier, TierFailed
from cache_sidecar.services import touches
from cache_sidecar.services.touches import Touches
from cache_sidecar.tiers.ports import Expiry
from tests.support.clocks import ManualClock

WINDOW = 300.0


class Told:
    """Takes what is written."""

    def __init__(self) -> None:
        self.writes: list[tuple[dict[str, float], float]] = []
        self.error: Exception | None = None

    async def __call__(self, told: Mapping[str, float], overdue: float) -> None:
        if self.error:
            raise self.error
        self.writes.append((dict(told), overdue))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def uses(told: Told, clock: ManualClock) -> Touches:
    return Touches(told, window=lambda: WINDOW, clock=clock)


def expiry(clock: ManualClock, *, stored_ago: float) -> Expiry:
    """Returns what a read finds when PostgreSQL was told of a use so long ago."""
    now = clock.now()
    return Expiry(now, now + 10**6, now - stored_ago)


async def test_a_use_that_is_overdue_is_told_at_once(uses: Touches, told: Told, clock: ManualClock) -> None:
    uses.add("a", expiry(clock, stored_ago=WINDOW))
    uses.add("b", expiry(clock, stored_ago=WINDOW - 1))
    uses.add("c", expiry(clock, stored_ago=0))
    await uses.flush()
    assert told.writes == [({"a": 1000.0}, 1000.0 - WINDOW)]
    await uses.flush()
    assert len(told.writes) == 1


async def test_what_is_to_be_told_is_told_as_it_is_then(uses: Touches, told: Told, clock: ManualClock) -> None:
    uses.add("a", expiry(clock, stored_ago=WINDOW))
    clock.advance(1)
    uses.add("a", expiry(clock, stored_ago=1))
    await uses.flush()
    assert told.writes[0][0] == {"a": 1001.0}


async def test_a_use_within_the_window_waits_for_its_end(uses: Touches, told: Told, clock: ManualClock) -> None:
    uses.add("a", expiry(clock, stored_ago=10))
    clock.advance(WINDOW - 1)
    uses.add("a", expiry(clock, stored_ago=WINDOW - 1))
    await uses.flush()
    assert told.writes == []
    clock.advance(1)
    await uses.flush()
    assert told.writes[0][0] == {"a": 1000.0 + WINDOW - 1}


async def test_nothing_is_told_twice_when_the_window_ends(uses: Touches, told: Told, clock: ManualClock) -> None:
    uses.add("a", expiry(clock, stored_ago=10))
    clock.advance(WINDOW - 10)
    uses.add("a", expiry(clock, stored_ago=WINDOW))
    await uses.flush()
    clock.advance(WINDOW)
    await uses.flush()
    assert len(told.writes) == 1


async def test_what_redis_did_not_count_is_told_however_little_postgresql_is_behind(
    uses: Touches, told: Told, clock: ManualClock
) -> None:
    uses.add("a", expiry(clock, stored_ago=1))
    uses.add_uncounted({"a": 999.0})
    uses.add_uncounted({"a": 1000.0})
    await uses.flush()
    assert told.writes == [({"a": 1000.0}, float("inf"))]
    await uses.flush()
    assert len(told.writes) == 1


async def test_the_end_tells_what_redis_did_not_count(uses: Touches, told: Told) -> None:
    uses.add_uncounted({"a": 1000.0})
    await uses.close()
    assert told.writes == [({"a": 1000.0}, float("inf"))]


async def test_the_end_tells_everything(uses: Touches, told: Told, clock: ManualClock) -> None:
    uses.start()
    uses.add("a", expiry(clock, stored_ago=10))
    uses.add("b", expiry(clock, stored_ago=WINDOW))
    await uses.close()
    assert told.writes == [({"a": 1000.0, "b": 1000.0}, float("inf"))]


@pytest.mark.parametrize("error", [TierFailed(Tier.STORE, Failure.UNREACHABLE), Overloaded("x")])
async def test_what_could_not_be_told_is_told_later(uses: Touches, told: Told, clock: ManualClock, error: Exception) -> None:
    told.error = error
    uses.add("a", expiry(clock, stored_ago=WINDOW))
    await uses.flush()
    told.error = None
    clock.advance(1)
    uses.add("b", expiry(clock, stored_ago=WINDOW))
    await uses.flush()
    assert told.writes[0][0] == {"a": 1000.0, "b": 1001.0}


async def test_a_use_that_comes_while_one_is_told_is_told_too(clock: ManualClock) -> None:
    writes: list[dict[str, float]] = []

    async def write(told: Mapping[str, float], _overdue: float) -> None:
        writes.append(dict(told))
        if len(writes) == 1:
            clock.advance(1)
            uses.add("a", expiry(clock, stored_ago=1))

    uses = Touches(write, window=lambda: WINDOW, clock=clock)
    uses.add("a", expiry(clock, stored_ago=WINDOW))
    await uses.flush()
    assert writes == [{"a": 1000.0}, {"a": 1001.0}]


async def test_many_go_out_in_batches(uses: Touches, told: Told, clock: ManualClock) -> None:
    for number in range(touches.BATCH + 1):
        uses.add(str(number), expiry(clock, stored_ago=WINDOW))
    await uses.flush()
    assert [len(uses_of_one) for uses_of_one, _ in told.writes] == [touches.BATCH, 1]


async def test_memory_is_bounded(uses: Touches, told: Told, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touches, "MAX_WAITING", 3)
    for number in range(5):
        uses.add(f"due-{number}", expiry(clock, stored_ago=WINDOW))
        uses.add(f"waiting-{number}", expiry(clock, stored_ago=1))
    await uses.close()
    assert list(told.writes[0][0]) == [f"{kind}-{number}" for kind in ("waiting", "due") for number in (2, 3, 4)]


async def test_it_tells_by_itself(told: Told, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touches, "EVERY", 0.001)
    uses = Touches(told, window=lambda: WINDOW, clock=clock)
    uses.start()
    uses.add("a", expiry(clock, stored_ago=WINDOW))
    async with asyncio.timeout(10):
        while not told.writes:
            await asyncio.sleep(0.001)
    await uses.close()
    assert len(told.writes) == 1
