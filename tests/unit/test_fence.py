"""The fence: what Redis held before an outage is not read before the relay brought it up to date."""

from cache_sidecar.clock import ManualClock
from cache_sidecar.tiers.fence import CLOCKS, Fence
from cache_sidecar.tiers.ports import partition_of

ID = "a"
LONGEST = 10.0
HERE, ELSEWHERE = partition_of(ID), partition_of("b")


class Outage:
    """A fence whose partition was away."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fence = Fence(longest=lambda: LONGEST, clock=self.clock)
        self.fence.set_trusted(HERE, True)

    def happen(self, partition: int = HERE) -> None:
        self.fence.set_trusted(partition, False)
        self.clock.advance(3)
        self.fence.set_trusted(partition, True)


def test_there_is_none_at_first() -> None:
    assert not Outage().fence.is_around(ID)


def test_it_stands_from_the_beginning_of_an_outage() -> None:
    outage = Outage()
    outage.fence.set_trusted(HERE, False)
    outage.fence.told(outage.clock.now() + 1)  # of the primaries as they were before
    assert outage.fence.is_around(ID)


def test_it_stands_until_a_sign_that_is_younger_than_the_end_of_the_outage() -> None:
    outage = Outage()
    outage.happen()
    ended = outage.clock.now()
    assert outage.fence.is_around(ID)
    outage.clock.advance(1)
    outage.fence.told(ended)  # the relay's clock may be ahead
    assert outage.fence.is_around(ID)
    outage.fence.told(ended + CLOCKS)
    assert not outage.fence.is_around(ID)


def test_a_sign_from_before_a_second_outage_does_not_end_the_first() -> None:
    outage = Outage()
    outage.happen()
    first = outage.clock.now()
    outage.happen()
    outage.fence.told(first + CLOCKS)
    assert outage.fence.is_around(ID)


def test_other_partitions_are_read() -> None:
    outage = Outage()
    outage.happen(ELSEWHERE)
    assert not outage.fence.is_around(ID)
    assert outage.fence.is_around("b")


def test_after_the_staleness_bound_replies_say_stale_and_it_falls() -> None:
    outage = Outage()
    outage.happen()
    outage.clock.advance(LONGEST)
    assert not outage.fence.is_around(ID)


def test_an_outage_that_is_told_again_and_again_is_one() -> None:
    outage = Outage()
    for _ in range(2):
        outage.fence.set_trusted(HERE, False)
        outage.clock.advance(LONGEST / 2)
    assert not outage.fence.is_around(ID)


def test_lost_messages_are_no_outage() -> None:
    outage = Outage()
    outage.fence.partition_changed(HERE)
    outage.fence.changed(ID, 7)
    assert not outage.fence.is_around(ID)
