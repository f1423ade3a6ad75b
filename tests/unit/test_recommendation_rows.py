"""The neighbours of a product, against values computed by hand."""

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.recommendations.model import TOGETHER_HALF_LIFE, Item, Totals, weight
from cache_sidecar.recommendations.rows import NEIGHBOURS, ItemRow, Neighbour, item_row, log_likelihood
from tests.support.learning import START, buys, learn, rows_of


def test_the_probability_of_a_neighbour_is_damped_by_ten_baskets() -> None:
    rows = rows_of(learn([buys(1, "ann", "a", "b", "c"), buys(2, "ben", "a", "b")]))
    # 1.5 and 0.5 of 2 + 10 baskets.
    assert rows["a"].together == pytest.approx({"b": 0.125, "c": 0.5 / 12}, abs=1e-9)
    assert list(rows["a"].together) == ["b", "c"]
    assert rows["a"].model_time == START


def test_old_baskets_prove_less() -> None:
    rows = rows_of(learn([buys(1, "ann", "a", "b"), buys(2, "ben", "c", day=TOGETHER_HALF_LIFE / 86_400)]))
    assert rows["a"].together == pytest.approx({"b": 0.5 / 10.5}, abs=1e-9)


def test_of_equal_neighbours_the_lesser_id_is_first() -> None:
    rows = rows_of(learn([buys(1, "ann", "a", "z", "m", "c")]))
    assert list(rows["a"].together) == ["c", "m", "z"]


def test_sums_that_differ_in_their_last_bits_are_equal() -> None:
    now = weight(START, TOGETHER_HALF_LIFE)
    one = Item(1, "a", baskets=now, together={2: now * (0.1 + 0.1 + 0.1), 3: now * 0.3})
    neighbours = {2: Neighbour("z", 1), 3: Neighbour("b", 1)}
    assert list(item_row(one, neighbours, Totals(time=START)).together) == ["b", "z"]


def test_the_log_likelihood_is_dunning_s() -> None:
    # 10 of 100 customers have the first product, 20 the second, 8 both: the sum of 2 k ln(k / expected) over the four cells.
    expected = 2 * (8 * log(8 / 2) + 2 * log(2 / 8) + 12 * log(12 / 18) + 78 * log(78 / 72))
    assert log_likelihood(8, 10, 20, 100) == pytest.approx(expected)


def test_what_is_bought_together_as_often_as_by_chance_means_nothing() -> None:
    assert log_likelihood(2, 10, 20, 100) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 1000))
def test_it_is_symmetric_and_never_negative(both: int, first: int, second: int, neither: int) -> None:
    all = both + first + second + neither
    one = log_likelihood(both, both + first, both + second, all)
    assert one >= 0.0
    assert one == pytest.approx(log_likelihood(both, both + second, both + first, all), abs=1e-6)


@pytest.mark.parametrize(("both", "first", "second", "all"), [(5, 1, 9, 20), (5, 9, 1, 20), (5, 9, 9, 8), (5, 9, 30, 20)])
def test_counts_that_contradict_each_other_say_nothing(both: int, first: int, second: int, all: int) -> None:
    item = Item(1, "a", customers=first, also={2: both})
    assert item_row(item, {2: Neighbour("b", second)}, Totals(time=START, customers=all)).also == {}


def test_customers_who_have_both_less_often_than_by_chance_are_no_recommendation() -> None:
    # a and b: 1 of 4 customers, expected 2.25. a and c: 2, expected 1.5.
    events = [buys(1, "1", "a", "b"), buys(2, "2", "a", "c"), buys(3, "3", "a", "c"), buys(4, "4", "b"), buys(5, "5", "b")]
    rows = rows_of(learn(events))
    assert list(rows["a"].also) == ["c"]


def test_the_likelihoods_of_a_row_sum_to_one_and_the_best_fifty_are_kept() -> None:
    baskets = [buys(n, f"user-{n}", "a", *(f"p{p:02}" for p in range(60 - n))) for n in range(40)]
    row = rows_of(learn([*baskets, *(buys(100 + n, f"other-{n}", "x") for n in range(50))]))["a"]
    assert len(row.also) == len(row.together) == NEIGHBOURS
    assert sum(row.also.values()) == pytest.approx(1.0)
    assert list(row.together) == [f"p{p:02}" for p in range(50)]


def row(*together: str, also: tuple[str, ...] = ()) -> ItemRow:
    return ItemRow("a", dict.fromkeys(together, 0.1), dict.fromkeys(also, 0.1), START)


def test_a_row_differs_by_its_ten_best_neighbours_in_order() -> None:
    ten = tuple("bcdefghijk")
    assert row("b").differs(None)
    assert row("b", "c").differs(row("c", "b"))
    assert row(also=("b",)).differs(row(also=("c",)))
    assert not row(*ten, "x").differs(row(*ten, "y"))
    assert not row(*ten).differs(ItemRow("a", dict.fromkeys(ten, 0.2), {}, START + 1))
