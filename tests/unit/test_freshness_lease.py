"""FreshnessLease lapses by itself: who reads looks at the clock."""

import math

import pytest

from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from tests.support.clocks import ManualClock


class Feed:
    """What is trusted, and for how long it is known that it no longer is."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def on_expired(self, late: float) -> None:
        self.late.append(late)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def freshness_lease(clock: ManualClock) -> FreshnessLease:
    return FreshnessLease(clock.now)


def test_nothing_lapses_that_was_never_given(freshness_lease: FreshnessLease, clock: ManualClock) -> None:
    assert freshness_lease.until == math.inf
    clock.advance(1e9)
    freshness_lease.check()


def test_each_lapses_in_its_time_and_once(freshness_lease: FreshnessLease, clock: ManualClock) -> None:
    first, second = Feed(), Feed()
    freshness_lease.extend(second, 103.0)
    freshness_lease.extend(first, 101.0)
    assert freshness_lease.until == 101.0
    clock.advance(0.5)
    freshness_lease.check()
    assert (first.late, second.late) == ([], [])
    clock.advance(1.5)
    for _ in range(2):
        freshness_lease.check()
    assert (first.late, second.late) == ([1.0], [])
    assert freshness_lease.until == 103.0
    clock.advance(1.0)
    freshness_lease.check()
    assert second.late == [0.0]
    assert freshness_lease.until == math.inf


def test_it_can_be_extended_and_ended(freshness_lease: FreshnessLease, clock: ManualClock) -> None:
    feed = Feed()
    freshness_lease.extend(feed, 101.0)
    freshness_lease.extend(feed, 102.0)
    clock.advance(1.5)
    freshness_lease.check()
    freshness_lease.end(feed)
    freshness_lease.end(feed)
    clock.advance(1.0)
    freshness_lease.check()
    assert feed.late == []


def test_those_that_lapse_together_are_all_told(freshness_lease: FreshnessLease, clock: ManualClock) -> None:
    feeds = [Feed() for _ in range(3)]
    for feed in feeds:
        freshness_lease.extend(feed, 101.0)
    clock.advance(2.0)
    freshness_lease.check()
    assert [feed.late for feed in feeds] == [[1.0]] * 3


def test_who_reads_elsewhere_is_told_until_when(freshness_lease: FreshnessLease, clock: ManualClock) -> None:
    told: list[float] = []
    freshness_lease.follow(told.append)

    class Looking(Feed):
        def on_expired(self, late: float) -> None:
            assert told[-1] == 101.0, "it still lapses while this is told"

    feed = Looking()
    freshness_lease.extend(feed, 101.0)
    clock.advance(1.0)
    freshness_lease.check()
    assert told == [math.inf, 101.0, math.inf]
