"""What Redis refused to hear of puts its partition in doubt, until the quarantine knows that the relay has told it."""

import pytest

from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.coherence.unpublished import UnpublishedChanges
from cache_sidecar.tiers.ports import PARTITIONS, Watermark, partition_of
from tests.support.clocks import ManualClock

ID = "a"
HERE, ELSEWHERE = partition_of(ID), partition_of("b")
NODE = ("10.0.0.1", 6379)


class Ear:
    """A follower that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_invalidate(self, id: str, version: int) -> None:
        self.heard.append((id, version))

    def on_partition_reset(self, partition: int) -> None:
        self.heard.append(("drop", partition))

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        self.heard.append(("trust" if trusted else "distrust", partition))

    def taken(self) -> list[object]:
        heard, self.heard = self.heard, []
        return heard


class Case:
    """Two partitions that are listened to, of one dataset."""

    def __init__(self) -> None:
        self.ear = Ear()
        self.quarantine = Quarantine(freshness_lease=FreshnessLease(), holder=lambda _: NODE, clock=ManualClock())
        self.unpublished = UnpublishedChanges(self.ear, quarantine=self.quarantine)
        self.listen(HERE, ELSEWHERE)
        for partition in range(PARTITIONS):
            self.marks(1, 2, 3, partition=partition)
        self.ear.taken()

    def listen(self, *partitions: int) -> None:
        self.quarantine.on_feed_trusted(partitions, NODE, "0123456789abcdef")
        for partition in partitions:
            self.unpublished.on_lease_change(partition, True)

    def lose(self) -> None:
        self.quarantine.on_feed_lost([HERE])
        self.unpublished.on_lease_change(HERE, False)

    def marks(self, *numbers: int, partition: int = HERE, moment: float = 0.0) -> None:
        """Takes marks of one relay, as `Region.step` does."""
        for number in numbers:
            if self.quarantine.on_watermark(partition, Watermark(moment, "relay", number)):
                self.unpublished.on_doubt_ended(partition)


@pytest.fixture
def case() -> Case:
    return Case()


def test_what_was_refused_is_in_doubt_until_the_relay_told_it(case: Case) -> None:
    case.unpublished.on_refusal([ID])
    assert case.ear.taken() == [("distrust", HERE)]
    case.unpublished.on_refusal([ID])
    assert case.ear.taken() == []
    case.marks(4, 5)
    assert case.ear.taken() == [], "the look of the second may have begun before the refusal"
    case.marks(6)
    assert case.ear.taken() == [("drop", HERE), ("trust", HERE)], "what was held may lack something, and goes first"


def test_a_relay_whose_clock_is_ahead_ends_nothing_early(case: Case) -> None:
    case.unpublished.on_refusal([ID])
    case.marks(4, 4, 5, 5, moment=1e12)
    assert case.ear.taken() == [("distrust", HERE)]


def test_what_redis_holds_of_it_is_in_doubt_too(case: Case) -> None:
    assert case.quarantine.footings([ID])
    case.unpublished.on_refusal([ID])
    assert not case.quarantine.footings([ID])


def test_what_is_told_of_another_partition_is_no_comfort(case: Case) -> None:
    case.unpublished.on_refusal([ID])
    case.ear.taken()
    case.marks(4, 5, 6, partition=ELSEWHERE)
    assert case.ear.taken() == []


def test_each_refusal_waits_for_signs_of_its_own(case: Case) -> None:
    case.unpublished.on_refusal([ID])
    case.marks(4, 5)
    case.unpublished.on_refusal([ID])
    case.marks(6, 7)
    assert case.ear.taken() == [("distrust", HERE)]
    case.marks(8)
    assert case.ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_what_is_not_heard_any_more_is_not_trusted_by_a_sign(case: Case) -> None:
    case.unpublished.on_refusal([ID])
    case.lose()
    case.marks(4, 5, 6)
    case.listen(HERE)
    case.marks(7, 8)
    assert case.ear.taken() == [("distrust", HERE)]
    case.marks(9)
    assert case.ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_what_is_heard_again_is_not_trusted_before_the_signs(case: Case) -> None:
    case.lose()
    case.unpublished.on_refusal([ID])
    case.listen(HERE)
    assert case.ear.taken() == [("distrust", HERE)]
    case.marks(4, 5, 6)
    assert case.ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_changes_and_other_partitions_are_passed_on(case: Case) -> None:
    case.unpublished.on_refusal([ID])
    case.ear.taken()
    case.unpublished.on_invalidate(ID, 7)
    case.unpublished.on_partition_reset(HERE)
    case.unpublished.on_lease_change(ELSEWHERE, False)
    assert case.ear.taken() == [(ID, 7), ("drop", HERE), ("distrust", ELSEWHERE)]
