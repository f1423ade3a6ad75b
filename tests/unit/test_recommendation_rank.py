"""Lists: scores computed by hand, what is left out, what fills up, and the reasons."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.recommendations.model import DAY, USER_HALF_LIFE, Basket, User
from cache_sidecar.recommendations.rank import (
    BEST_SELLERS,
    BUY_IT_AGAIN,
    HOME_PAGE,
    NOBODY,
    OTHERS_YOU_MAY_LIKE,
    PRODUCT_DETAIL,
    SHOPPING_CART,
    Placement,
    Popular,
    Profile,
    Reason,
    Result,
    Terms,
    profile_of,
    rank,
)
from cache_sidecar.recommendations.rows import ItemRow
from tests.support.learning import START

PLACEMENTS = [HOME_PAGE, OTHERS_YOU_MAY_LIKE, PRODUCT_DETAIL, BUY_IT_AGAIN, BEST_SELLERS]


def row(product_id: str, together: dict[str, float] | None = None, also: dict[str, float] | None = None) -> ItemRow:
    return ItemRow(product_id, together or {}, also or {}, START)


ROWS = {
    "tea": row("tea", {"cup": 0.3, "milk": 0.1}, {"kettle": 0.75, "cup": 0.25}),
    "jam": row("jam", {"bread": 0.4}, {"bread": 1.0}),
}
POPULAR = Popular({"bag": 0.5, "cup": 0.2, "tea": 0.2, "jam": 0.1})
ANN = Profile({"tea": 0.6, "jam": 0.2}, frozenset({"tea", "jam"}))


def ids(results: list[Result]) -> list[str]:
    return [result.product_id for result in results]


def test_a_home_page_list_is_the_sum_of_its_terms() -> None:
    results = rank(HOME_PAGE, rows=ROWS, popular=POPULAR, profile=ANN)
    # Of the history, tea weighs 3/4 and jam 1/4.
    expected = {
        "cup": 4 * 0.75 * 0.3 + 0.5 * 0.2,
        "tea": 0.6 + 0.5 * 0.2,
        "bread": 4 * 0.25 * 0.4,
        "milk": 4 * 0.75 * 0.1,
        "jam": 0.2 + 0.5 * 0.1,
        "bag": 0.5 * 0.5,
    }
    assert {result.product_id: result.score for result in results} == pytest.approx(expected)
    assert ids(results) == ["cup", "tea", "bread", "milk", "bag", "jam"]
    assert [result.reason for result in results] == [
        Reason.BOUGHT_TOGETHER,
        Reason.BOUGHT_BEFORE,
        Reason.BOUGHT_TOGETHER,
        Reason.BOUGHT_TOGETHER,
        Reason.POPULAR,
        Reason.BOUGHT_BEFORE,
    ]
    assert [result.because_product_id for result in results] == ["tea", "", "jam", "tea", "", ""]
    assert results[0].terms == pytest.approx(Terms(similar=0.9, popular=0.1))


def test_the_rows_of_a_cart_are_scaled_together_and_the_cart_is_left_out() -> None:
    results = rank(SHOPPING_CART, rows=ROWS, popular=POPULAR, context=["tea", "jam", "tea", "unknown"])
    # 0.3, 0.1 and 0.4 sum to 0.8.
    assert {result.product_id: result.score for result in results} == pytest.approx(
        {"bread": 5.0, "cup": 3.75 + 0.02, "milk": 1.25, "bag": 0.05}
    )
    assert ids(results) == ["bread", "cup", "milk", "bag"]
    assert [result.because_product_id for result in results] == ["jam", "tea", "tea", ""]


def test_what_was_bought_before_is_not_new_and_popular_products_fill_up() -> None:
    results = rank(OTHERS_YOU_MAY_LIKE, rows=ROWS, popular=POPULAR, profile=ANN)
    assert ids(results) == ["kettle", "bread", "cup", "bag"]
    assert {result.product_id: result.score for result in results} == pytest.approx(
        {"kettle": 0.75 * 0.75, "cup": 0.75 * 0.25, "bread": 0.25, "bag": 0.0}
    )
    assert [(result.reason, result.because_product_id) for result in results] == [
        (Reason.ALSO_BOUGHT, "tea"),
        (Reason.ALSO_BOUGHT, "jam"),
        (Reason.ALSO_BOUGHT, "tea"),
        (Reason.POPULAR, ""),
    ]


def test_buy_it_again_has_nothing_else() -> None:
    assert ids(rank(BUY_IT_AGAIN, rows=ROWS, popular=POPULAR, profile=ANN)) == ["tea", "jam"]
    assert rank(BUY_IT_AGAIN, rows=ROWS, popular=POPULAR) == []


@pytest.mark.parametrize("placement", [HOME_PAGE, OTHERS_YOU_MAY_LIKE, PRODUCT_DETAIL, BEST_SELLERS])
def test_nobody_gets_what_is_popular(placement: Placement) -> None:
    results = rank(placement, rows={}, popular=POPULAR, profile=NOBODY)
    assert ids(results) == ["bag", "cup", "tea", "jam"]
    assert {result.reason for result in results} == {Reason.POPULAR}


def test_ties_are_broken_by_popularity_then_by_id() -> None:
    rows = {"a": row("a", {"z": 0.1, "m": 0.1, "tea": 0.1})}
    placement = Placement(context=1)
    assert ids(rank(placement, rows=rows, popular=POPULAR, context=["a"], size=3)) == ["tea", "m", "z"]


def test_what_is_excluded_is_replaced_by_what_follows() -> None:
    results = rank(HOME_PAGE, rows=ROWS, popular=POPULAR, profile=ANN, exclude={"tea", "cup"}, size=2)
    assert ids(results) == ["bread", "milk"]


def test_lists_are_full_as_long_as_there_are_popular_products() -> None:
    popular = Popular({f"p{number:02}": 1.0 / (number + 2) for number in range(40)})
    bought = Profile({"p00": 0.9}, frozenset(f"p{number:02}" for number in range(10)))
    results = rank(OTHERS_YOU_MAY_LIKE, rows={}, popular=popular, profile=bought, exclude=["p10", "p11"])
    assert ids(results) == [f"p{number:02}" for number in range(12, 22)]
    results = rank(HOME_PAGE, rows={}, popular=popular, profile=bought, exclude=["p01", "p02"], size=20)
    assert ids(results) == ["p00", *(f"p{number:02}" for number in range(3, 22))]


def test_a_user_s_shares_are_those_of_the_newest_baskets_with_less_weight_for_old_ones() -> None:
    half = USER_HALF_LIFE / DAY
    baskets = [Basket(START + half * DAY, "2", ["tea"]), Basket(START, "1", ["tea", "jam"])]
    user = User("ann", baskets, {"tea": START + half * DAY, "jam": START, "old": START})
    profile = profile_of(user, START + half * DAY)
    assert profile.shares == pytest.approx({"tea": 1.5 / 2.0, "jam": 0.5 / 2.0})
    assert list(profile.shares) == ["tea", "jam"]
    assert profile.bought == {"tea", "jam", "old"}


PRODUCTS = [f"p{number}" for number in range(12)]
weights = st.dictionaries(st.sampled_from(PRODUCTS), st.integers(1, 5).map(lambda tenths: tenths / 10))


def ordered(found: dict[str, float]) -> dict[str, float]:
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


@given(
    st.sampled_from(PLACEMENTS),
    st.dictionaries(st.sampled_from(PRODUCTS), st.tuples(weights, weights)),
    weights,
    weights,
    st.lists(st.sampled_from(PRODUCTS), max_size=3),
    st.sets(st.sampled_from(PRODUCTS)),
    st.integers(1, 12),
)
def test_whatever_is_known_a_list_keeps_its_promises(
    placement: Placement,
    given_rows: dict[str, tuple[dict[str, float], dict[str, float]]],
    given_popular: dict[str, float],
    history: dict[str, float],
    context: list[str],
    exclude: set[str],
    size: int,
) -> None:
    rows = {id: row(id, ordered(one), ordered(other)) for id, (one, other) in given_rows.items()}
    popular, profile = Popular(ordered(given_popular)), Profile(ordered(history), frozenset(history))
    arguments: dict[str, Any] = {"rows": rows, "popular": popular, "profile": profile, "context": context, "exclude": exclude}
    results = rank(placement, **arguments, size=size)
    found = ids(results)
    assert results == rank(placement, **arguments, size=size)
    assert len(set(found)) == len(found) <= size
    assert not {*context, *exclude}.intersection(found)
    assert not placement.is_new or not profile.bought.intersection(found)
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)
    for result in results:
        assert sum(result.terms) == pytest.approx(result.score)
        needs_product = result.reason in {Reason.BOUGHT_TOGETHER, Reason.ALSO_BOUGHT}
        assert (result.because_product_id in {*context, *history}) if needs_product else not result.because_product_id
    # The short list is the start of the long one, and what is left of popular products is in it.
    everything = ids(rank(placement, **arguments, size=100))
    assert found == everything[:size]
    if placement.fills_up:
        hidden = {*context, *exclude, *(history if placement.is_new else ())}
        assert set(given_popular) - hidden <= set(everything)
