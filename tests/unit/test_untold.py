"""What Redis refused to hear of puts its partition in doubt, until the relay has told everything up to then."""

from cache_sidecar.clock import ManualClock
from cache_sidecar.tiers.ports import partition_of
from cache_sidecar.tiers.untold import CLOCKS, Untold

ID = "a"
HERE, ELSEWHERE = partition_of(ID), partition_of("b")


class FenceStub:
    """Writes down what is in doubt."""

    def __init__(self) -> None:
        self.doubted: list[set[int]] = []

    def doubt(self, partitions: set[int]) -> None:
        self.doubted.append(partitions)


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


def listening(fence: FenceStub | None = None) -> tuple[Untold, Ear, ManualClock]:
    ear, clock = Ear(), ManualClock()
    untold = Untold(ear, fence=fence or FenceStub(), clock=clock)  # type: ignore[arg-type]  # all that is asked of one
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
    untold.told(HERE, clock.now())
    assert ear.taken() == [], "the relay's clock may be ahead"
    untold.told(HERE, clock.now() + CLOCKS)
    assert ear.taken() == [("drop", HERE), ("trust", HERE)], "what was held may lack something, and goes first"


def test_what_redis_holds_of_it_is_in_doubt_too() -> None:
    fence = FenceStub()
    untold, _, _ = listening(fence)
    untold.refused([ID])
    assert fence.doubted == [{HERE}]


def test_what_is_told_of_another_partition_is_no_comfort() -> None:
    untold, ear, clock = listening()
    untold.refused([ID])
    ear.taken()
    untold.told(ELSEWHERE, clock.now() + CLOCKS)
    assert ear.taken() == []


def test_each_refusal_waits_for_a_sign_of_its_own() -> None:
    untold, ear, clock = listening()
    untold.refused([ID])
    first = clock.now() + CLOCKS
    clock.advance(1)
    untold.refused([ID])
    untold.told(HERE, first)
    assert ear.taken() == [("distrust", HERE)]
    untold.told(HERE, first + 1)
    assert ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_what_is_not_heard_any_more_is_not_trusted_by_a_sign() -> None:
    untold, ear, clock = listening()
    untold.refused([ID])
    untold.set_trusted(HERE, False)
    untold.told(HERE, clock.now() + CLOCKS)
    assert ear.taken() == [("distrust", HERE)]
    untold.set_trusted(HERE, True)
    assert ear.taken() == [("trust", HERE)]


def test_what_is_heard_again_is_not_trusted_before_the_sign() -> None:
    untold, ear, clock = listening()
    untold.set_trusted(HERE, False)
    untold.refused([ID])
    untold.set_trusted(HERE, True)
    assert ear.taken() == [("distrust", HERE)]
    untold.told(HERE, clock.now() + CLOCKS)
    assert ear.taken() == [("drop", HERE), ("trust", HERE)]


def test_changes_and_other_partitions_are_passed_on() -> None:
    untold, ear, _ = listening()
    untold.refused([ID])
    ear.taken()
    untold.changed(ID, 7)
    untold.partition_changed(HERE)
    untold.set_trusted(ELSEWHERE, False)
    assert ear.taken() == [(ID, 7), ("drop", HERE), ("distrust", ELSEWHERE)]
