"""Time as an argument."""

import time

from cache_sidecar.core.clock import SystemClock
from tests.consistency.off_clock import OffClock
from tests.support.clocks import ManualClock


def test_the_machine_s_clock_is_the_machine_s() -> None:
    before = time.time()
    assert before <= SystemClock().now() <= time.time()


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(100.0)
    assert clock.now() == clock.now() == 100.0
    clock.advance(2.5)
    assert clock.now() == 102.5


def test_a_manual_clock_starts_at_a_plausible_time() -> None:
    assert ManualClock().now() > 1_600_000_000


def test_who_follows_a_manual_clock_is_told_the_time_whenever_it_moves() -> None:
    clock, told = ManualClock(100.0), []
    clock.follow(told.append)
    clock.advance(2.5)
    assert told == [100.0, 102.5]


def test_a_clock_that_is_off_goes_as_the_machine_s_does() -> None:
    for ahead in (5.0, -5.0):
        before = time.time() + ahead
        assert before <= OffClock(ahead).now() <= time.time() + ahead
