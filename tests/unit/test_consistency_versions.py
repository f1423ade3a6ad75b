"""The checker of rule 2: histories it has to accept, and a planted violation of each rule that it has to find."""

import random

import pytest

from tests.consistency.rules.log import KEPT, Log
from tests.consistency.rules.told import Look, Told
from tests.consistency.rules.versions import PROCESSES, REMEMBERED, STATES, Bounds, Checker, Read

BOUNDS = Bounds(told=1.0, seen=5.0, stale=2.0, clock=0.05)
# The process that wrote, and another one.
WRITER, OTHER = 0, 1


def checker() -> Checker:
    return Checker("product", 2, BOUNDS, Log())


def read(
    checker: Checker, version: int, called: float, *, sidecar: int = OTHER, age: float = 100.0, stale: bool = False
) -> float:
    one = Read(sidecar=sidecar, key=0, called=called, version=version, age=age, stale=stale)
    return checker.read(one, replied=called + 0.01)


def rules(checker: Checker) -> list[str]:
    return [violation.rule for violation in checker.log.kept]


def test_another_sidecar_may_be_behind_as_long_as_the_bound() -> None:
    checked = checker()
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    assert read(checked, 6, 9.0) == 0.0  # before the write was acknowledged
    assert read(checked, 6, 10.9) == pytest.approx(0.9)
    assert read(checked, 7, 20.0) == 0.0
    assert not checked.log.broken
    read(checked, 6, 11.1)
    assert rules(checked) == ["told"]
    (violation,) = checked.log.kept
    facts = violation.facts
    assert (facts["newer"], facts["late"], facts["allowed"]) == (7, pytest.approx(1.1), 1.0)


def test_what_redis_was_perhaps_not_told_of_has_the_relays_bound() -> None:
    told = Told()
    checked = Checker("product", 2, BOUNDS, Log(), told)
    told.looked(WRITER, Look(9.0, 9.1, errors=3))
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0, called=9.9, replied=10.0)
    checked.acknowledged(0, 8, sidecar=WRITER, at=10.2, called=10.1, replied=10.2)
    told.looked(WRITER, Look(10.05, 10.06, errors=4))
    told.looked(WRITER, Look(10.3, 10.4, errors=4))
    read(checked, 7, 11.0)  # told, but not for so long
    read(checked, 6, 11.1)  # as the first one was not
    assert not checked.log.broken
    read(checked, 6, 11.3)
    assert [violation.facts["newer"] for violation in checked.log.kept] == [8]
    read(checked, 6, 15.1)
    read(checked, 6, 100.0, stale=True, age=1.0)
    assert rules(checked) == ["told"] * 3


def test_what_redis_was_not_told_of_is_marked_for_as_long_as_that_lasts() -> None:
    checked = Checker("product", 2, BOUNDS, Log(), Told())
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    read(checked, 6, 14.9)
    read(checked, 6, 40.0, stale=True)
    assert not checked.log.broken
    read(checked, 6, 15.1)
    assert rules(checked) == ["seen"]


def test_a_stale_reply_may_be_older_up_to_its_deadline() -> None:
    checked = checker()
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    read(checked, 6, 12.9, stale=True)
    assert not checked.log.broken
    read(checked, 6, 13.1, stale=True)
    assert rules(checked) == ["told"]


@pytest.mark.parametrize(
    ("after", "source", "age", "broken"),
    [
        (Look(20.3, 20.4, 0, store_errors=1), "l2", 100.0, False),
        (Look(20.3, 20.4, 0, store_errors=1), "l1", 100.0, True),  # what is in memory has its deadline
        (Look(20.3, 20.4, 0, is_behind=True), "l1", 100.0, False),  # unless no relay is heard of
        (Look(20.3, 20.4, 0), "l2", 100.0, True),  # PostgreSQL was there: why did Redis answer?
        (Look(20.3, 20.4, 0, store_errors=1), "l2", 5.0, True),  # it says itself that it is not so old
    ],
)
def test_a_stale_reply_may_be_older_only_if_something_failed(after: Look, source: str, age: float, broken: bool) -> None:
    told = Told()
    checked = Checker("product", 2, BOUNDS, Log(), told)
    told.looked(WRITER, Look(9.0, 9.1, errors=0))
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0, called=9.9, replied=10.0)
    told.looked(WRITER, Look(10.3, 10.4, errors=0))
    told.looked(OTHER, Look(19.8, 19.9, errors=0))
    old = Read(OTHER, 0, 20.0, 6, age, stale=True, source=source)
    checked.read(old, replied=20.1)
    checked.read(old._replace(version=7), replied=20.2)
    assert checked.log.broken == (age < 10)  # else it is not known yet
    told.looked(OTHER, after)
    checked.read(old._replace(version=7), replied=20.5)
    assert checked.log.broken == broken


def test_a_doubt_of_a_sidecar_that_was_killed_keeps_nobody_from_being_judged() -> None:
    told = Told()
    checked = Checker("product", 2, BOUNDS, Log(), told)
    told.looked(WRITER, Look(9.0, 9.1, errors=0))
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0, called=9.9, replied=10.0)
    told.looked(WRITER, Look(10.3, 10.4, errors=0))
    for sidecar in (2, OTHER):
        told.looked(sidecar, Look(19.8, 19.9, errors=0))
        checked.read(Read(sidecar, 0, 20.0, 6, 100.0, stale=True, source="l2"), replied=20.1)
    told.looked(OTHER, Look(20.3, 20.4, errors=0))
    checked.read(Read(OTHER, 0, 25.0, 7, 0.0, stale=False), replied=25.1)
    assert not checked.log.broken
    checked.read(Read(OTHER, 0, 40.0, 7, 0.0, stale=False), replied=40.1)
    assert [violation.facts["sidecar"] for violation in checked.log.kept] == [OTHER]


@pytest.mark.parametrize("stale", [False, True])
def test_the_sidecar_that_acknowledged_is_never_behind(stale: bool) -> None:
    checked = checker()
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    read(checked, 6, 9.99, sidecar=WRITER)  # called before the reply of the write
    assert not checked.log.broken
    read(checked, 6, 10.001, sidecar=WRITER, stale=stale)
    assert rules(checked) == ["own"]


def test_a_sidecar_that_was_started_again_is_another_one() -> None:
    checked = checker()
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    read(checked, 6, 10.5, sidecar=2)
    # It was killed between the call and the reply: nobody knows which of the two answered.
    checked.acknowledged(0, 8, sidecar=-1, at=10.2)
    read(checked, 7, 10.5, sidecar=-1)
    assert not checked.log.broken


def test_a_change_of_another_program_has_the_relays_bound() -> None:
    checked = checker()
    checked.committed(0, 7, at=10.0)
    read(checked, 6, 14.9)
    assert not checked.log.broken
    read(checked, 6, 15.1)
    assert rules(checked) == ["seen"]


def test_versions_do_not_go_back_after_they_were_seen() -> None:
    checked = checker()
    read(checked, 7, 10.0)
    read(checked, 6, 14.0)
    assert not checked.log.broken
    read(checked, 6, 16.0)
    assert rules(checked) == ["seen"]


def test_a_reply_is_not_older_than_its_age_says() -> None:
    checked = checker()
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    read(checked, 6, 10.5, age=0.5)
    assert not checked.log.broken
    read(checked, 6, 10.5, age=0.4)
    read(checked, 6, 12.0, age=0.4, stale=True)
    assert rules(checked) == ["age", "age"]


def test_the_oldest_newer_version_counts() -> None:
    checked = checker()
    for version, moment in ((7, 10.0), (8, 10.5), (9, 11.0)):
        checked.acknowledged(0, version, sidecar=WRITER, at=moment)
    assert read(checked, 8, 11.9) == pytest.approx(0.9)
    assert read(checked, 7, 11.4) == pytest.approx(0.9)
    assert not checked.log.broken
    read(checked, 7, 11.9)
    assert rules(checked) == ["told"]


def test_acknowledgements_may_overtake_each_other() -> None:
    checked = checker()
    checked.acknowledged(0, 8, sidecar=WRITER, at=10.0)
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.5)
    assert read(checked, 7, 10.9) == pytest.approx(0.9)
    read(checked, 7, 11.1)
    assert rules(checked) == ["told"]


def test_a_missing_product_is_older_than_everything() -> None:
    checked = checker()
    checked.committed(0, 1, at=0.0)
    read(checked, 0, 6.0)
    assert rules(checked) == ["seen"]


def test_products_are_apart() -> None:
    checked = checker()
    checked.acknowledged(1, 9, sidecar=WRITER, at=1.0)
    read(checked, 6, 10.0)
    assert not checked.log.broken


def test_memory_is_bounded_and_an_old_violation_still_found() -> None:
    checked = checker()
    for version in range(1, 2000):
        checked.acknowledged(0, version, sidecar=WRITER, at=float(version))
    frontier = checked.frontiers[0]
    assert len(frontier.versions) <= 2 * REMEMBERED + 2
    for _ in range(2 * KEPT):
        read(checked, 1, 2000.0)
    assert checked.log.broken == 2 * KEPT
    assert len(checked.log.kept) == KEPT
    assert checked.log.kept[0].facts["late"] >= REMEMBERED


def test_what_processes_and_states_are_remembered_is_bounded() -> None:
    checked = checker()
    for process in range(2 * PROCESSES):
        checked.acknowledged(0, process + 1, sidecar=process, at=float(process))
        checked.is_state(0, process + 1, "as it is")
    assert len(checked.own) == PROCESSES
    assert len(checked.states[0]) == STATES


def test_two_replies_with_one_version_say_the_same() -> None:
    checked = checker()
    for key, state in ((0, "three left"), (1, "two left"), (0, "three left")):
        checked.read(Read(OTHER, key, 1.0, 7, 100.0, stale=False, state=state), replied=1.0)
    assert not checked.log.broken
    checked.is_state(0, 7, "two left")  # from a write, or from a watch
    assert rules(checked) == ["state"]


def test_clocks_that_differ_excuse_only_what_a_reply_says_of_its_age() -> None:
    checked = checker()
    checked.acknowledged(0, 7, sidecar=WRITER, at=10.0)
    checked.clocks_differ(5.0)
    read(checked, 6, 10.9, age=0.0)
    assert not checked.log.broken
    read(checked, 6, 11.1, age=100.0)
    assert rules(checked) == ["told"]
    checked.acknowledged(0, 8, sidecar=WRITER, at=20.0)
    read(checked, 7, 20.1, sidecar=WRITER)
    assert rules(checked) == ["told", "own"]


def test_a_long_history_is_accepted_until_an_error_is_planted() -> None:
    """Four sidecars hear of each write after a while, never longer than the bound."""
    generator = random.Random(5)
    for heard_within, is_correct in ((0.99, True), (1.5, False)):
        checked, newest, heard = checker(), 0, [[(0.0, 0)] for _ in range(4)]
        for step in range(20_000):
            now = step / 100
            if generator.random() < 0.02:
                newest += 1
                writer = generator.randrange(4)
                for sidecar, news in enumerate(heard):
                    delay = 0.0 if sidecar == writer else generator.uniform(0, heard_within)
                    news.append((now + delay, newest))
                checked.acknowledged(0, newest, sidecar=writer, at=now)
            else:
                sidecar = generator.randrange(4)
                known = max(version for moment, version in heard[sidecar][-400:] if moment <= now)
                read(checked, known, now, sidecar=sidecar)
        assert (checked.log.broken == 0) is is_correct
