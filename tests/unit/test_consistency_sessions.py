"""The rules of sessions: histories they have to accept, and a planted violation of each that they have to find."""

import pytest

from tests.consistency.rules.log import Log
from tests.consistency.rules.sessions import Bounds, Sessions

BOUNDS = Bounds(told=0.6, seen=10.0, expiry=15.0, noted=3.0, clock=0.05)
WRITER, OTHER = 0, 1
ID = "a secret"


def sessions() -> Sessions:
    made = Sessions(BOUNDS, Log())
    made.created(ID, called=100.0)
    return made


def read(checked: Sessions, called: float, *, version: int | None = 5, sidecar: int = OTHER, stale: bool = False) -> None:
    checked.read(ID, sidecar=sidecar, called=called, replied=called + 0.01, version=version, stale=stale)


def end(checked: Sessions, at: float, *, pending: bool = False) -> None:
    checked.ending([ID], called=at - 0.1)
    checked.ended([ID], "DeleteSession", sidecar=WRITER, at=at, pending=pending)


def rules(checked: Sessions) -> list[str]:
    return [violation.rule for violation in checked.log.kept]


def test_an_ended_session_is_not_accepted_later_than_the_bound() -> None:
    checked = sessions()
    end(checked, 110.0)
    read(checked, 109.9)  # called before the acknowledgement
    read(checked, 110.5)
    read(checked, 110.7, version=None)
    assert not rules(checked)
    read(checked, 110.7)
    assert rules(checked) == ["ended"]


def test_the_process_that_ended_it_accepts_it_no_more() -> None:
    checked = sessions()
    end(checked, 110.0, pending=True)
    read(checked, 110.01, sidecar=OTHER)
    assert not rules(checked)
    read(checked, 110.01, sidecar=WRITER)
    read(checked, 110.01, sidecar=WRITER, stale=True)
    assert rules(checked) == ["ended", "ended"]


def test_a_reply_that_is_marked_says_that_it_may_be_older() -> None:
    checked = sessions()
    end(checked, 110.0)
    read(checked, 113.0, stale=True)
    assert not rules(checked)


def test_a_pending_end_has_the_relays_bound() -> None:
    checked = sessions()
    end(checked, 110.0, pending=True)
    read(checked, 119.0)
    assert not rules(checked)
    read(checked, 120.1)
    assert rules(checked) == ["ended"]


@pytest.mark.parametrize("first_is_pending", [True, False])
def test_a_repeat_that_says_it_is_told_counts_and_one_that_says_pending_takes_nothing_back(first_is_pending: bool) -> None:
    checked = sessions()
    end(checked, 110.0, pending=first_is_pending)
    end(checked, 112.0, pending=not first_is_pending)
    told = 112.0 if first_is_pending else 110.0
    read(checked, told + 0.5)
    assert not rules(checked)
    read(checked, told + 0.7)
    assert rules(checked) == ["ended"]


def test_a_session_in_use_is_not_lost() -> None:
    checked = sessions()
    read(checked, 110.0)
    read(checked, 124.9, version=None)
    assert rules(checked) == ["lost"]


def test_a_session_that_may_have_expired_may_be_gone() -> None:
    checked = sessions()
    read(checked, 110.0)
    read(checked, 124.99, version=None)
    assert not rules(checked)
    checked.clocks_differ(5.0)
    read(checked, 121.0, version=None)
    assert not rules(checked)
    read(checked, 119.0, version=None)
    assert rules(checked) == ["lost"]


def test_a_use_that_postgresql_could_not_hear_of_may_be_lost() -> None:
    checked = sessions()
    checked.store_was_away(112.0, 118.0)
    for used, may_be_lost in ((108.9, False), (109.1, True), (118.0, True), (118.1, False)):
        read(checked, used)
        before = len(rules(checked))
        read(checked, used + 0.1, version=None)
        assert (len(rules(checked)) == before) is may_be_lost


def test_a_session_that_somebody_tries_to_end_may_be_gone_or_not() -> None:
    checked = sessions()
    checked.ending([ID], called=105.0)
    read(checked, 106.0, version=None)
    read(checked, 107.0)
    assert not rules(checked)


def test_a_session_whose_creation_was_repeated_may_be_ended_by_the_late_first_attempt() -> None:
    checked = sessions()
    checked.created(ID, called=105.0, attempts=2)
    read(checked, 106.0, version=None)
    checked.not_there(ID, replied=106.0)
    assert not rules(checked)
    end(checked, 110.0)
    read(checked, 111.0)
    assert rules(checked) == ["ended"]


def test_whoever_alone_ends_a_session_finds_it() -> None:
    checked = sessions()
    checked.ending([ID], called=105.0)
    checked.not_there(ID, replied=115.1)
    assert not rules(checked)
    checked.not_there(ID, replied=114.0)
    assert rules(checked) == ["lost"]


def test_a_change_is_shown_at_once_where_it_was_made_and_elsewhere_within_the_bound() -> None:
    checked = sessions()
    checked.changed(ID, 7, sidecar=WRITER, at=105.0)
    read(checked, 104.9, version=5, sidecar=WRITER)
    read(checked, 105.5, version=5)
    read(checked, 105.7, version=5, stale=True)
    read(checked, 105.7, version=7)
    assert not rules(checked)
    read(checked, 105.7, version=5)
    read(checked, 105.1, version=5, sidecar=WRITER)
    assert rules(checked) == ["told", "own"]


def test_what_nobody_asks_about_any_more_is_forgotten() -> None:
    checked = sessions()
    end(checked, 110.0)
    checked.forget([ID])
    read(checked, 200.0)
    assert not rules(checked)
    assert not checked.sessions
