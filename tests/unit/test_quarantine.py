"""The quarantine: which reads of Redis count, by the reader's clock, and what ends a doubt."""

import math

import pytest

from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.quarantine import Footing, Quarantine
from cache_sidecar.tiers.ports import PARTITIONS, Watermark, partition_of
from tests.support.clocks import ManualClock

ID = "a"
HERE, ELSEWHERE = partition_of(ID), partition_of("b")
NODE, OTHER = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
HISTORY = "0123456789abcdef" * 3


class Holder:
    """A feed, as far as its trust goes: it ends the footing of the partition."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    def on_expired(self, late: float) -> None:
        self._quarantine.on_feed_lost([HERE], late=late)


class Case:
    """A quarantine whose partitions are held by one node; one is heard, and in no doubt."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.freshness_lease = FreshnessLease(self.clock.now)
        self.holders = dict.fromkeys(range(PARTITIONS), NODE)
        self.quarantine = Quarantine(freshness_lease=self.freshness_lease, holder=self.holders.get, clock=self.clock)
        self.hear()
        self.marks(-3, -2, -1)

    def hear(self, partition: int = HERE, *, history: str = HISTORY) -> None:
        self.quarantine.on_feed_trusted([partition], self.holders[partition], history)

    def outage(self, partition: int = HERE) -> None:
        self.quarantine.on_feed_lost([partition])
        self.clock.advance(3)
        self.hear(partition)

    def marks(self, *numbers: int, by: str = "relay") -> None:
        for number in numbers:
            self.quarantine.on_watermark(HERE, Watermark(self.clock.now(), by, number))

    def is_read(self, id: str = ID) -> bool:
        footings = self.quarantine.footings([id])
        return id in footings and self.quarantine.rests(id, footings[id])


@pytest.fixture
def case() -> Case:
    return Case()


def test_nothing_is_read_before_anything_is_heard(case: Case) -> None:
    assert not case.is_read("b")
    assert case.is_read()


def test_what_is_heard_for_the_first_time_is_in_doubt_like_after_an_outage(case: Case) -> None:
    case.hear(ELSEWHERE)
    for number in (7, 8):
        case.quarantine.on_watermark(ELSEWHERE, Watermark(0.0, "relay", number))
        assert not case.is_read("b"), "a primary may have been replaced the moment before"
    case.quarantine.on_watermark(ELSEWHERE, Watermark(0.0, "relay", 9))
    assert case.is_read("b")


def test_it_says_whether_marks_end_a_doubt_now(case: Case) -> None:
    assert not case.quarantine.is_ending, "of the others nothing is heard"
    case.outage()
    assert case.quarantine.is_ending
    case.quarantine.open(HERE, is_open=True)
    assert not case.quarantine.is_ending, "nobody reads PostgreSQL for it"
    case.quarantine.open(HERE, is_open=False)
    case.marks(1, 2, 3)
    assert not case.quarantine.is_ending


def test_what_is_read_rests_on_the_same_footing_before_and_after(case: Case) -> None:
    footing = case.quarantine.footings([ID])[ID]
    assert footing == Footing(NODE, HISTORY[:8])
    case.quarantine.on_feed_lost([HERE])
    assert not case.quarantine.rests(ID, footing)
    case.hear()
    case.marks(1, 2, 3)
    assert case.is_read()
    assert not case.quarantine.rests(ID, footing), "it was away meanwhile"


def test_the_reader_s_clock_ends_it_though_nobody_noticed(case: Case) -> None:
    case.freshness_lease.extend(Holder(case.quarantine), case.clock.now() + 0.6)
    footing = case.quarantine.footings([ID])[ID]
    case.clock.advance(0.59)
    assert case.quarantine.rests(ID, footing)
    case.clock.advance(0.01)
    assert not case.quarantine.rests(ID, footing), "after the read"
    assert case.quarantine.footings([ID]) == {}, "and before the next"
    assert case.freshness_lease.until == math.inf


def test_a_read_that_is_sent_to_another_node_than_is_heard_does_not_count(case: Case) -> None:
    footing = case.quarantine.footings([ID])[ID]
    case.holders[HERE] = OTHER
    assert not case.quarantine.rests(ID, footing)
    assert case.quarantine.footings([ID]) == {}
    assert case.quarantine.footing(HERE) is None
    case.holders[HERE] = NODE
    assert case.is_read()


def test_a_doubt_ends_with_the_third_mark_of_one_relay(case: Case) -> None:
    case.outage()
    for number in (7, 7, 8, 8):
        case.marks(number)
        assert not case.is_read()
    case.marks(9)
    assert case.is_read()


def test_marks_of_different_relays_don_t_add_up(case: Case) -> None:
    case.outage()
    case.marks(7, 8)
    case.marks(9, 10, by="another")
    assert not case.is_read()


def test_a_second_outage_begins_from_nothing(case: Case) -> None:
    case.outage()
    case.marks(7, 8)
    case.outage()
    case.marks(9, 10)
    assert not case.is_read()
    case.marks(11)
    assert case.is_read()


def test_during_an_outage_no_mark_counts(case: Case) -> None:
    case.quarantine.on_feed_lost([HERE])
    case.marks(1, 2, 3)
    assert not case.is_read()
    case.hear()
    assert not case.is_read()


def test_other_partitions_are_read(case: Case) -> None:
    case.outage(ELSEWHERE)
    assert case.is_read()
    assert not case.is_read("b")


def test_it_says_for_how_long_it_waits(case: Case) -> None:
    assert case.quarantine.waits(HERE) == 0
    case.quarantine.on_feed_lost([HERE], late=1.5)
    case.clock.advance(1)
    assert case.quarantine.waits(HERE) == 2.5
    case.hear()
    case.clock.advance(1)
    assert case.quarantine.waits(HERE) == 1, "from the end of the outage"
    case.marks(1, 2, 3)
    assert case.quarantine.waits(HERE) == 0


def test_what_says_stale_is_read_all_the_same_and_not_when_that_ends_meanwhile(case: Case) -> None:
    case.outage()
    case.quarantine.open(HERE, is_open=True)
    assert case.quarantine.footings([ID]) == {ID: None}
    assert case.quarantine.rests(ID, None)
    case.quarantine.open(HERE, is_open=False)
    assert not case.quarantine.rests(ID, None)
