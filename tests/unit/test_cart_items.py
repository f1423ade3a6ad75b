"""The changes of a cart's lines, and what they cost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.core.errors import InvalidRequest, LimitReached, NotFound
from cache_sidecar.services import cart_items
from cache_sidecar.services.cart_items import Limits
from cache_sidecar.store.cart import Item

LIMITS = Limits(items=4, quantity=10)
MANY = Limits(items=500, quantity=1_000_000)


def item(product_id: str, quantity: int = 1, units: int = 1, nanos: int = 0, code: str = "EUR", **options: str) -> Item:
    return Item(product_id, quantity, units, nanos, code, options)


def test_adding_the_same_line_adds_up_and_takes_the_new_price() -> None:
    items = cart_items.add((item("a", 2, units=5),), item("a", 3, units=4), LIMITS)
    assert items == (item("a", 5, units=4),)


def test_options_tell_lines_of_a_product_apart() -> None:
    items = cart_items.add((item("a", size="M"),), item("a", size="L"), LIMITS)
    assert [line.options for line in items] == [{"size": "M"}, {"size": "L"}]
    assert cart_items.remove(items, "a", {"size": "M"}) == items[1:]
    assert cart_items.remove(items, "a", {}) == items


def test_lines_keep_their_order() -> None:
    items = (item("c"), item("a"), item("b"))
    assert [line.product_id for line in cart_items.add(items, item("a"), LIMITS)] == ["c", "a", "b"]
    assert [line.product_id for line in cart_items.set_quantity(items, "a", {}, 9, LIMITS)] == ["c", "a", "b"]
    assert [line.product_id for line in cart_items.set_quantity(items, "a", {}, 0, LIMITS)] == ["c", "b"]


def test_a_line_takes_as_many_pieces_as_the_limit_and_not_one_more() -> None:
    items = (item("a", 9),)
    assert cart_items.add(items, item("a", 1), LIMITS)[0].quantity == 10
    for refused in (lambda: cart_items.add(items, item("a", 2), LIMITS), lambda: cart_items.add((), item("a", 11), LIMITS)):
        with pytest.raises(LimitReached) as caught:
            refused()
        assert caught.value.limit == 10
    with pytest.raises(LimitReached):
        cart_items.set_quantity(items, "a", {}, 11, LIMITS)


def test_a_cart_takes_as_many_lines_as_the_limit_and_not_one_more() -> None:
    items = tuple(item(name) for name in "abcd")
    assert len(cart_items.add(items, item("d"), LIMITS)) == 4
    for more in (lambda: cart_items.add(items, item("e"), LIMITS), lambda: cart_items.merge(items, (item("e"),), LIMITS)):
        with pytest.raises(LimitReached):
            more()


def test_the_quantity_of_a_line_that_is_not_there_cannot_be_set() -> None:
    with pytest.raises(NotFound):
        cart_items.set_quantity((item("a", size="M"),), "a", {}, 1, LIMITS)


def test_merged_quantities_stop_at_the_limit() -> None:
    merged = cart_items.merge((item("a", 7), item("b", 1)), (item("a", 8, units=3), item("c", 2)), LIMITS)
    assert merged == (item("a", 10, units=3), item("b", 1), item("c", 2))


def test_a_cart_with_a_line_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        cart_items.replace([item("a", size="M"), item("b"), item("a", size="M")], LIMITS)
    assert list(caught.value.violations) == ["cart.items[2]"]


def test_the_totals_of_the_readme() -> None:
    (total,) = cart_items.totals((item("prod456", 2, 29, 990_000_000), item("prod789", 1, 59, 990_000_000)))
    assert (total.units, total.nanos, total.currency_code) == (119, 970_000_000, "EUR")


prices = st.builds(
    item,
    st.text(min_size=1, max_size=3),
    st.integers(1, 1_000_000),
    st.integers(0, 10**9),
    st.integers(0, 999_999_999),
    st.sampled_from(["EUR", "USD", "JPY"]),
)


@given(st.lists(prices, max_size=20))
def test_totals_are_exact(items: list[Item]) -> None:
    expected: dict[str, Decimal] = {}
    for line in items:
        cost = (Decimal(line.price_units) + Decimal(line.price_nanos).scaleb(-9)) * line.quantity
        expected[line.currency_code] = expected.get(line.currency_code, Decimal(0)) + cost
    totals = cart_items.totals(items)
    assert [total.currency_code for total in totals] == sorted(expected)
    for total in totals:
        assert 0 <= total.nanos <= 999_999_999
        assert Decimal(total.units) + Decimal(total.nanos).scaleb(-9) == expected[total.currency_code]


def test_a_total_that_money_cannot_hold_is_refused() -> None:
    most = item("a", 1, 2**63 - 1, 999_999_999)
    assert cart_items.totals((most,))[0].units == 2**63 - 1
    for items in ((most, item("b", 1, 0, 1)), (item("a", 2, 2**62),)):
        with pytest.raises(InvalidRequest, match="EUR"):
            cart_items.totals(items)
    assert len(cart_items.totals((most, most._replace(currency_code="USD")))) == 2


def added(*items: Item) -> cart_items.Items:
    lines: cart_items.Items = ()
    for line in items:
        lines = cart_items.add(lines, line, Limits(500, 10**9))
    return lines


@given(st.lists(prices, max_size=8), st.lists(prices, max_size=8))
def test_adding_is_commutative_in_all_but_order_and_price(first: list[Item], second: list[Item]) -> None:
    def quantities(items: cart_items.Items) -> dict[str, int]:
        return {line.product_id: line.quantity for line in items}

    assert quantities(added(*first, *second)) == quantities(added(*second, *first))


@given(st.lists(prices, max_size=8), st.lists(prices, max_size=8))
def test_merging_is_adding_below_the_limit(first: list[Item], second: list[Item]) -> None:
    assert cart_items.merge(added(*first), second, Limits(500, 10**9)) == added(*first, *second)
