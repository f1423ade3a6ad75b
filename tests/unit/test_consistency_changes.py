"""The rule of carts: histories it has to accept, and planted errors that it has to find."""

from tests.consistency.rules.changes import Change, Changes, Lines
from tests.consistency.rules.log import Log
from tests.support.cart_model import ModelCart, key_of
from tests.support.customers import item


def adding(product: str, quantity: int = 1) -> Change:
    return lambda model: model.add(item(product, quantity))


def lines(**quantities: int) -> Lines:
    model = ModelCart()
    for product, quantity in quantities.items():
        model.add(item(product, quantity))
    return model.lines


def changes() -> Changes:
    return Changes(2, Log())


def do(checked: Changes, version: int, change: Change, after: Lines) -> None:
    checked.begun(0)
    checked.done(0, version, change, after)


def test_replies_in_any_order_are_taken_in_that_of_their_versions() -> None:
    checked = changes()
    for _ in range(3):
        checked.begun(0)
    checked.done(0, 9, adding("c"), lines(a=1, b=2, c=1))
    checked.refused(0)
    checked.begun(0)
    checked.done(0, 7, adding("a"), lines(a=1))
    assert not checked.checked  # another one is under way, whose version may be between the two
    checked.done(0, 8, adding("b", 2), lines(a=1, b=2))
    assert checked.checked == 3
    checked.read(0, lines(a=1, b=2, c=1))
    checked.read(1, {})
    assert not checked.log.broken


def test_a_change_that_changes_nothing_may_have_the_version_of_the_one_before() -> None:
    checked = changes()
    do(checked, 7, adding("a"), lines(a=1))
    do(checked, 7, lambda model: model.remove("b", {}), lines(a=1))
    assert not checked.log.broken


def test_whichever_of_them_was_heard_of_first() -> None:
    checked = changes()
    for _ in range(2):
        checked.begun(0)
    checked.done(0, 7, lambda model: model.remove("b", {}), lines(a=1))
    checked.done(0, 7, adding("a"), lines(a=1))
    assert not checked.log.broken


def test_a_change_that_is_lost_is_found_in_the_next_one() -> None:
    checked = changes()
    do(checked, 7, adding("a"), lines(a=1))
    do(checked, 8, adding("b"), lines(b=1))
    assert [violation.facts["expected"] for violation in checked.log.kept] == [{"a": 1}]
    do(checked, 9, adding("c"), lines(b=1, c=1))  # told once
    assert checked.log.broken == 1


def test_a_change_that_is_made_twice_is_found() -> None:
    checked = changes()
    do(checked, 7, adding("a"), lines(a=2))
    assert checked.log.counts == {("cart", "lost"): 1}


def test_a_change_that_is_lost_after_the_last_one_is_found_at_the_end() -> None:
    checked = changes()
    do(checked, 7, adding("a"), lines(a=1))
    checked.read(0, {})
    assert checked.log.kept[0].facts["expected"] == {"a": 1}
    assert key_of("a", {}) in checked.carts[0].lines


def test_what_was_compared_is_not_remembered() -> None:
    checked = changes()
    for number in range(1, 100):
        do(checked, number, adding("a"), lines(a=number))
    assert not checked.log.broken
    assert not checked.pending[0]
