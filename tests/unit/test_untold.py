"""What Redis refused to hear of puts its partition in doubt, until the relay has told everything up to then."""

from cache_sidecar.clock import ManualClock
from cache_sidecar.tiers.fence import CLOCKS
from cache_sidecar.tiers.ports import partition_of
from cache_sidecar.tiers.untold import Untold

ID = "a"
HERE, ELSEWHERE = partition_of(ID), partition_of("b")


class Ear:
    """A follower that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def changed(self, id: str, version: int) -> None:
        self.heard.append((id, version))

    def partition_changed(self, partition: int) -> None:
        self.heard.append(("drop", partition))

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        self.heard.append(("trust" if trusted else "distrust", partition))

    def taken(self) -> list[object]:
        heard, self.heard = self.heard, []
        return heard


def listening() -> tuple[Untold, Ear, ManualClock]:
    ear, clock = Ear(), ManualClock()
    untold = Untold(ear, clock=clock)
    for partition in (HERE, ELSEWHERE):
        untold.set_trusted(partition, True)
    ear.taken()
    return untold, ear, clock


def test_what_was_refused_is_in_doubt_until_the_relay_told_it() -> None:
    untold, ear, clock = listening()
    untold.refused([ID])
    assert ear.taken() == [("distrust", HERE)]
    untold.refused([ID])
    assert ear.taken() == []
    untold.told(clock.now())
    assert ear.taken() == [], "the relay's clock may be ahead"
    untold.told(clock.now() + CLOCKS)
    assert ear.taken() == [("drop", HERE), ("trust", HERE)], "what was held may lack something, and goes first"


def test_each_refusal_waits_for_a_sign_of_its_own() -> None:
    untold, ear, clock = listening()
    untold.refused([ID])
    first = clock.now() + CLOCKS
    clock.advance(1)
    untold.refused([ID])
    untold.told(first)
    assert ear.taken() == [("distrust", HERE)]
    untold.told(first + 1)
    assert ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_what_is_not_heard_any_more_is_not_trusted_by_a_sign() -> None:
    untold, ear, clock = listening()
    untold.refused([ID])
    untold.set_trusted(HERE, False)
    untold.told(clock.now() + CLOCKS)
    assert ear.taken() == [("distrust", HERE)]
    untold.set_trusted(HERE, True)
    assert ear.taken() == [("trust", HERE)]


def test_what_is_heard_again_is_not_trusted_before_the_sign() -> None:
    untold, ear, clock = listening()
    untold.set_trusted(HERE, False)
    untold.refused([ID])
    untold.set_trusted(HERE, True)
    assert ear.taken() == [("distrust", HERE)]
    untold.told(clock.now() + CLOCKS)
    assert ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_changes_and_other_partitions_are_passed_on() -> None:
    untold, ear, _ = listening()
    untold.refused([ID])
    ear.taken()
    untold.changed(ID, 7)
    untold.partition_changed(HERE)
    untold.set_trusted(ELSEWHERE, False)
    assert ear.taken() == [(ID, 7), ("drop", HERE), ("distrust", ELSEWHERE)]
