"""Trust lapses by itself: who reads looks at the clock."""

import math

import pytest

from cache_sidecar.core.clock import ManualClock
from cache_sidecar.tiers.coherence.freshness_lease import Trust


class Feed:
    """What is trusted, and for how long it is known that it no longer is."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def lapsed(self, late: float) -> None:
        self.late.append(late)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def trust(clock: ManualClock) -> Trust:
    return Trust(clock.now)


def test_nothing_lapses_that_was_never_given(trust: Trust, clock: ManualClock) -> None:
    assert trust.until == math.inf
    clock.advance(1e9)
    trust.check()


def test_each_lapses_in_its_time_and_once(trust: Trust, clock: ManualClock) -> None:
    first, second = Feed(), Feed()
    trust.extend(second, 103.0)
    trust.extend(first, 101.0)
    assert trust.until == 101.0
    clock.advance(0.5)
    trust.check()
    assert (first.late, second.late) == ([], [])
    clock.advance(1.5)
    for _ in range(2):
        trust.check()
    assert (first.late, second.late) == ([1.0], [])
    assert trust.until == 103.0
    clock.advance(1.0)
    trust.check()
    assert second.late == [0.0]
    assert trust.until == math.inf


def test_it_can_be_extended_and_ended(trust: Trust, clock: ManualClock) -> None:
    feed = Feed()
    trust.extend(feed, 101.0)
    trust.extend(feed, 102.0)
    clock.advance(1.5)
    trust.check()
    trust.end(feed)
    trust.end(feed)
    clock.advance(1.0)
    trust.check()
    assert feed.late == []


def test_those_that_lapse_together_are_all_told(trust: Trust, clock: ManualClock) -> None:
    feeds = [Feed() for _ in range(3)]
    for feed in feeds:
        trust.extend(feed, 101.0)
    clock.advance(2.0)
    trust.check()
    assert [feed.late for feed in feeds] == [[1.0]] * 3


def test_who_reads_elsewhere_is_told_until_when(trust: Trust, clock: ManualClock) -> None:
    told: list[float] = []
    trust.follow(told.append)

    class Looking(Feed):
        def lapsed(self, late: float) -> None:
            assert told[-1] == 101.0, "it still lapses while this is told"

    feed = Looking()
    trust.extend(feed, 101.0)
    clock.advance(1.0)
    trust.check()
    assert told == [math.inf, 101.0, math.inf]
