"""What an event teaches, computed by hand; and that its order does not matter."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.recommendations import model as module
from cache_sidecar.recommendations.model import (
    DAY,
    POPULAR_HALF_LIFE,
    TOGETHER_HALF_LIFE,
    WINDOW,
    Event,
    Item,
    Model,
    weight,
    windows,
)
from tests.support.learning import START, buys, contents, learn, same, views


def pairs(model: Model, of: str) -> dict[str, float]:
    names = {item.number: item.product_id for item in model.items.values()}
    return {names[number]: value for number, value in model.items[of].together.items()}


def both(model: Model, of: str) -> dict[str, int]:
    names = {item.number: item.product_id for item in model.items.values()}
    return {names[number]: value for number, value in model.items[of].also.items()}


def test_a_pair_weighs_one_divided_by_the_other_lines() -> None:
    model = learn([buys(1, "ann", "a", "b", "c"), buys(2, "ben", "a", "b")])
    now = weight(START, TOGETHER_HALF_LIFE)
    assert pairs(model, "a") == pytest.approx({"b": 1.5 * now, "c": 0.5 * now})
    assert pairs(model, "c") == pytest.approx({"a": 0.5 * now, "b": 0.5 * now})
    assert model.items["a"].baskets == pytest.approx(2 * now)
    assert model.items["c"].baskets == pytest.approx(now)


def test_a_product_on_two_lines_counts_once() -> None:
    assert same(contents(learn([buys(1, "ann", "a", "b", "a")])), contents(learn([buys(1, "ann", "a", "b")])))


def test_of_a_large_basket_each_pair_weighs_as_in_one_of_a_hundred_lines() -> None:
    model = learn([buys(1, "", *(f"p{number}" for number in range(150)))])
    assert pairs(model, "p0")["p149"] == pytest.approx(weight(START, TOGETHER_HALF_LIFE) / 99)


def test_an_event_of_a_half_life_ago_weighs_half() -> None:
    later = POPULAR_HALF_LIFE / DAY
    model = learn([buys(1, "ann", "a"), buys(2, "ann", "b", day=later), buys(3, "ben", "b", day=later)])
    assert model.items["b"].popularity == pytest.approx(4 * model.items["a"].popularity)
    assert model.totals.popularity == pytest.approx(model.items["a"].popularity + model.items["b"].popularity)


def test_times_far_off_do_not_overflow() -> None:
    assert (
        0.0 < weight(-1e12, POPULAR_HALF_LIFE) < weight(START, POPULAR_HALF_LIFE) < weight(1e12, POPULAR_HALF_LIFE) < math.inf
    )


def test_a_customer_counts_once_for_two_products_however_often_they_are_bought() -> None:
    model = learn([buys(1, "ann", "a", "b"), buys(2, "ann", "a", "b", day=1), buys(3, "ben", "a"), buys(4, "ben", "b", day=2)])
    assert both(model, "a") == {"b": 2}
    assert both(model, "b") == {"a": 2}
    assert (model.items["a"].customers, model.totals.customers) == (2, 2)


def test_what_nobody_is_known_to_have_bought_counts_for_baskets_only() -> None:
    model = learn([buys(1, "", "a", "b")])
    assert both(model, "a") == {}
    assert pairs(model, "a").keys() == {"b"}
    assert (model.totals.customers, model.items["a"].customers) == (0, 0)


def test_products_that_leave_the_window_are_no_longer_counted() -> None:
    old, new = buys(1, "ann", "old", "b"), buys(2, "ann", "b", *(f"p{n}" for n in range(WINDOW - 1)), day=1)
    model = learn([old, new])
    assert both(model, "old") == {}
    assert (model.items["old"].customers, model.items["b"].customers) == (0, 1)
    assert both(model, "b") == {f"p{n}": 1 for n in range(WINDOW - 1)}
    # What was bought before is known nevertheless.
    assert "old" in model.users["ann"].products


def test_a_user_s_newest_baskets_are_kept() -> None:
    late = buys(99, "ann", "late", day=0)
    model = learn([*(buys(n, "ann", f"p{n:02}", day=n) for n in range(1, 30)), late])
    assert [basket.product_ids for basket in model.users["ann"].baskets] == [(f"p{n:02}",) for n in range(29, 9, -1)]
    assert list(model.users["ann"].products)[-1] == "late"


def test_other_events_teach_nothing_but_the_time() -> None:
    event = views(1, "ann", "a", day=3)
    model = learn([event])
    assert model.totals.time == event.time
    assert not model.items
    assert not model.users


def test_rows_above_the_limit_are_cut_to_their_best_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_ENTRIES", 4)
    model = learn(
        [buys(1, "ann", "a", "b", "c"), buys(2, "ben", "a", "b"), buys(3, "eve", "a", "d"), buys(4, "joe", "a", "e", "f")]
    )
    assert pairs(model, "a").keys() == {"b", "d"}
    assert len(both(model, "a")) == 2
    assert len(pairs(model, "b")) == 2


def test_only_windows_that_change_are_needed() -> None:
    model = learn([buys(1, "ann", "a", "b"), buys(2, "ben", "c")])
    assert list(windows([buys(3, "ann", "a")], model.users)) == []
    assert sorted(windows([buys(3, "ann", "a", "new"), buys(4, "ben", "c"), buys(5, "", "d")], model.users)) == ["a", "b"]


class Loading(dict[str, Item]):
    """Fails when an item is used that was not asked for."""


def test_what_is_needed_is_all_that_is_used() -> None:
    before = [buys(n, f"user-{n % 3}", f"p{n % 7}", f"q{n % 5}", day=n) for n in range(40)]
    page = [buys(n, f"user-{n % 3}", f"p{n % 8}", f"r{n % 4}", day=n) for n in range(40, 60)]
    model = learn(before)
    needed = {id for event in page for id in event.product_ids} | set(windows(page, model.users))
    model.items = Loading({id: model.items[id] for id in needed})  # the dict that makes items
    for event in page:
        model.buy(event)
    whole = learn([*before, *page])
    changed = contents(whole)["items"]
    assert {id: item.customers for id, item in model.items.items()} == {id: changed[id][2] for id in model.items}


products = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5)
events = st.lists(
    st.builds(
        lambda kind, user_id, ids, day: kind(0, user_id, *ids, day=day),
        st.sampled_from([buys, views]),
        st.sampled_from(["", "ann", "ben"]),
        products,
        st.integers(-400, 400),
    ),
    max_size=40,
)


def number(events: Sequence[Event]) -> list[Event]:
    return [event._replace(position=n, event_id=f"e{n}") for n, event in enumerate(events, 1)]


@given(events.map(number), st.randoms(use_true_random=False), st.integers(2, 6))
def test_the_order_of_events_does_not_matter(given: list[Event], chance: Any, window: int) -> None:
    shuffled = chance.sample(given, len(given))
    with pytest.MonkeyPatch.context() as patch:
        # Small, so that products and baskets leave.
        patch.setattr(module, "WINDOW", window)
        patch.setattr(module, "BASKETS", 3)
        patch.setattr(module, "PRODUCTS", window + 1)
        one, other = contents(learn(given)), contents(learn(shuffled))
    assert same(one, other)


@given(events.map(number), st.integers(2, 6))
def test_pairs_are_those_of_the_customers_windows(given: list[Event], window: int) -> None:
    """The counts kept step by step are those counted at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", window)
        model = learn(given)
        windows_at_end = [user.window() for user in model.users.values()]
    known = {item.product_id for item in model.items.values()}
    for product_id in known:
        expected = {
            other: count
            for other in known - {product_id}
            if (count := sum(product_id in one and other in one for one in windows_at_end))
        }
        assert both(model, product_id) == expected
        assert model.items[product_id].customers == sum(product_id in one for one in windows_at_end)
