"""The rules of stock: histories they have to accept, and a planted violation of each that they have to find."""

from tests.consistency.rules.log import Log
from tests.consistency.rules.pieces import COMMITTED, EXPIRED, HELD, RELEASED, REMEMBERED, Pieces, Stored

LONG = 1e6


def pieces(*stock: int) -> Pieces:
    return Pieces(list(stock), Log())


def grant(checked: Pieces, id: str, quantity: int = 1, *, called: float = 0.0, hold: float = LONG) -> None:
    checked.granted(id, {0: quantity}, called=called, hold=hold, at=called + 0.1)


def rest(checked: Pieces, available: int, reserved: int, found: dict[str, Stored], reservations: int | None = None) -> None:
    count = len(found) if reservations is None else reservations
    checked.at_rest({0: (available, reserved)}, found, reservations=count)


def rules(checked: Pieces) -> list[str]:
    return [violation.rule for violation in checked.log.kept]


def test_what_is_granted_is_never_more_than_there_was() -> None:
    checked = pieces(5)
    grant(checked, "a", 3)
    grant(checked, "b", 2)
    assert not rules(checked)
    grant(checked, "c", 1)
    assert rules(checked) == ["oversold"]


def test_what_may_have_been_given_back_or_added_may_be_sold_again() -> None:
    checked = pieces(2)
    grant(checked, "a", 2)
    checked.ending("a")  # and nobody knows yet what became of it
    grant(checked, "b", 2)
    checked.adjusting(0, 1)
    grant(checked, "c", 1)
    checked.adjusted_by(0, 1)
    grant(checked, "d", 2, called=10.0, hold=5.0)  # of what "b" does not hold any more: it is over
    assert rules(checked) == ["oversold"]


def test_what_is_sold_is_gone_for_good() -> None:
    checked = pieces(2)
    grant(checked, "a", 2)
    checked.ended("a", COMMITTED)
    checked.passed(LONG * 2)
    grant(checked, "b", 1, called=LONG * 2)
    assert rules(checked) == ["oversold"]


def test_pieces_that_an_adjustment_took_or_did_not_add_cannot_be_sold() -> None:
    for undo in (True, False):
        checked = pieces(2)
        if undo:
            checked.adjusting(0, 1)
            checked.not_adjusted(0, 1)
        else:
            checked.adjusting(0, -1)
            checked.adjusted_by(0, -1)
        grant(checked, "a", 3 if undo else 2)
        assert rules(checked) == ["oversold"]


def test_what_may_have_expired_may_be_sold_again() -> None:
    checked = pieces(2)
    grant(checked, "a", 2, hold=5.0)
    checked.passed(5.0)
    grant(checked, "b", 2, called=5.0)
    assert not rules(checked)


def test_what_expired_since_time_was_last_looked_at_may_be_sold_again() -> None:
    checked = pieces(10)
    grant(checked, "a", 10, hold=5.0)
    grant(checked, "b", 10, called=5.0)
    assert rules(checked) == []
    grant(checked, "c", 1, called=5.0)
    assert rules(checked) == ["oversold"]


def test_a_reservation_is_not_over_before_its_time() -> None:
    checked = pieces(9)
    grant(checked, "a", hold=5.0)
    checked.over_already("a", EXPIRED, replied=4.96)
    grant(checked, "b", hold=5.0)
    checked.ending("b")
    checked.over_already("b", EXPIRED, replied=1.0)  # somebody tried to give it back
    assert not rules(checked)
    grant(checked, "c", hold=5.0)
    checked.over_already("c", EXPIRED, replied=4.9)
    assert rules(checked) == ["expired"]


def test_clocks_that_differ_excuse_an_early_expiry() -> None:
    checked = pieces(9)
    grant(checked, "a", hold=8.0)
    for _ in range(2):
        checked.clocks_differ(5.0)
    checked.over_already("a", EXPIRED, replied=3.1)
    grant(checked, "b", hold=8.0)
    checked.over_already("b", EXPIRED, replied=3.1)
    assert not rules(checked)
    grant(checked, "c", hold=8.0)
    checked.over_already("c", EXPIRED, replied=2.0)
    assert rules(checked) == ["expired"]


def test_a_repeat_gets_the_first_reply() -> None:
    checked = pieces(9)
    checked.replied("one", "first")
    checked.replied("one", "first")
    checked.replied("two", "second")
    assert not rules(checked)
    checked.replied("one", "refused")
    assert rules(checked) == ["repeat"]
    for number in range(2 * REMEMBERED):
        checked.replied(str(number), "")
    assert len(checked.first_replies) == REMEMBERED


def test_what_postgresql_holds_is_what_was_acknowledged() -> None:
    checked = pieces(10)
    for id, end in (("a", COMMITTED), ("b", RELEASED), ("c", HELD), ("d", HELD)):
        grant(checked, id, 2, hold=5.0 if id == "d" else LONG)
        if end is not HELD:
            checked.ended(id, end)
    checked.adjusting(0, 3)
    checked.adjusted_by(0, 3)
    checked.audited({id: Stored(checked.reservations[id].state, {0: 2}) for id in checked.over(10)})
    assert checked.held() == ["c", "d"]
    checked.passed(10.0)
    rest(checked, 9, 2, {"c": Stored(HELD, {0: 2}), "d": Stored(EXPIRED, {0: 2})}, reservations=4)
    assert not rules(checked)


def test_everything_that_is_lost_is_found_at_the_end() -> None:
    for found, available, reserved, reservations in (
        ({}, 10, 0, 0),  # the reservation
        ({"a": Stored(RELEASED, {0: 2})}, 10, 0, 1),  # its state
        ({"a": Stored(EXPIRED, {0: 2})}, 10, 0, 1),  # before its time
        ({"a": Stored(HELD, {0: 1})}, 9, 1, 1),  # a part of it
        ({"a": Stored(HELD, {0: 2})}, 7, 2, 1),  # a piece
        ({"a": Stored(HELD, {0: 2})}, 8, 3, 1),  # a piece that nobody holds
        ({"a": Stored(HELD, {0: 2})}, 8, 2, 2),  # one that nobody was told of
    ):
        checked = pieces(10)
        grant(checked, "a", 2)
        rest(checked, available, reserved, found, reservations)
        assert set(rules(checked)) == {"lost"}, found


def test_an_end_that_is_lost_is_found_by_the_audit() -> None:
    checked = pieces(10)
    grant(checked, "a", 2)
    checked.ended("a", COMMITTED)
    checked.audited({"a": Stored(HELD, {0: 2})})
    assert rules(checked) == ["lost"]
