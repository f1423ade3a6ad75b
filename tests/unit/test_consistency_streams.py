"""The rules of watches: what they have to accept, and a planted violation of each that they have to find."""

from tests.consistency.rules.log import Log
from tests.consistency.rules.streams import REMEMBERED, Stream


def stream(*, every: bool = False) -> Stream:
    return Stream("product", Log(), name="a watcher", every=every)


def rules(checked: Stream) -> list[str]:
    return [violation.rule for violation in checked.log.kept]


def test_versions_of_one_resource_do_not_go_back_and_none_comes_twice() -> None:
    checked = stream()
    for key, version in ((0, 5), (1, 3), (0, 7)):
        checked.takes(key, version)
    assert not rules(checked)
    checked.takes(0, 6)
    checked.takes(1, 3)
    assert rules(checked) == ["back", "back"]


def test_a_stream_that_is_resumed_may_begin_with_what_was_delivered() -> None:
    checked = stream()
    checked.takes(0, 5)
    checked.resumed()
    checked.takes(0, 5)
    assert not rules(checked)


def test_every_acknowledged_change_comes_whenever_it_is_acknowledged() -> None:
    checked = stream(every=True)
    checked.takes(0, 5)
    checked.takes(0, 6)
    checked.acknowledged(0, 6)  # after it was delivered
    checked.acknowledged(1, 7)  # before
    assert not checked.is_complete({0: 6, 1: 7})
    checked.takes(1, 7)
    assert checked.is_complete({0: 6, 1: 7, 2: 9})
    checked.found_incomplete({0: 6, 1: 7, 2: 9})
    assert not rules(checked)


def test_a_change_that_never_comes_is_a_gap_also_when_a_later_one_came() -> None:
    checked = stream(every=True)
    checked.takes(0, 5)
    checked.acknowledged(0, 6)
    checked.resumed()
    checked.takes(0, 7)
    checked.found_incomplete({0: 7})
    assert rules(checked) == ["gap"]


def test_who_is_refused_to_resume_has_a_gap() -> None:
    checked = stream(every=True)
    checked.cannot_resume("changes after 5 are no longer kept")
    assert rules(checked) == ["gap"]


def test_the_last_state_comes() -> None:
    checked = stream()
    checked.takes(0, 5)
    checked.acknowledged(0, 6)  # a state that was followed by another one before it was sent
    checked.takes(0, 7)
    assert checked.is_complete({0: 7})
    assert not checked.is_complete({0: 8})
    assert not checked.is_complete({0: 7, 1: 1})
    checked.found_incomplete({0: 8, 1: 1})
    assert rules(checked) == ["last", "last"]


def test_what_was_delivered_and_never_acknowledged_is_forgotten() -> None:
    checked = stream(every=True)
    for version in range(1, 2 * REMEMBERED):
        checked.takes(0, version)
    assert len(checked.early) == REMEMBERED
