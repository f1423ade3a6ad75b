"""The figures of an evaluation: by hand, and on orders with a structure that has to be found."""

from datetime import date

import pytest

from cache_sidecar.recommendations.evaluation import Case, Figure, Rate, cases, day_of, figure, split_day
from cache_sidecar.recommendations.generator import Kind, Place
from cache_sidecar.recommendations.model import Event
from cache_sidecar.recommendations.rank import HOME_PAGE, NOBODY, OTHERS_YOU_MAY_LIKE, SHOPPING_CART, profile_of, rank
from tests.support.learning import buys, learn, orders, popular_of, rows_of


def figures_of(train: list[Event], tests: list[Event]) -> dict[str, Figure]:
    """Returns the figures of lists from a model in memory."""
    model = learn(train)
    rows, popular = rows_of(model), popular_of(model)
    profiles = {user.user_id: profile_of(user, model.totals.time) for user in model.users.values()}

    def list_of(case: Case) -> list[str]:
        placement = HOME_PAGE if case.place is Place.HOME_PAGE else SHOPPING_CART
        if case.kind is Kind.OTHERS_YOU_MAY_LIKE:
            placement = OTHERS_YOU_MAY_LIKE
        profile = profiles.get(case.user_id, NOBODY)
        return [one.product_id for one in rank(placement, rows=rows, popular=popular, profile=profile, context=case.context)]

    return {name: figure(name, asked, map(list_of, asked), list(popular.shares)) for name, asked in cases(train, tests).items()}


def test_the_first_four_fifths_of_the_days_are_learned_from() -> None:
    events = [buys(n, "ann", "a", day=n) for n in range(10)] + [buys(20, "ann", "a", day=30)]
    assert split_day(events) == date(2026, 11, 9)
    assert split_day(events[:2]) == date(2026, 11, 2)
    assert split_day(events[:1]) is None
    assert split_day([]) is None
    assert day_of(events[0]) == date(2026, 11, 1)


def test_what_is_asked_for_and_what_was_bought() -> None:
    train = [buys(1, "ann", "a"), buys(2, "", "x")]
    tests = [buys(3, "ann", "a", "c"), buys(4, "ann", "q"), buys(5, "new", "a", "b", "r")]
    assert cases(train, tests) == {
        # The first basket of each customer who is known.
        "home": [Case(Place.HOME_PAGE, {"a", "c"}, "ann")],
        "discover": [Case(Place.HOME_PAGE, {"c"}, "ann", kind=Kind.OTHERS_YOU_MAY_LIKE, hidden={"a"})],
        "cart of 1": [
            Case(Place.SHOPPING_CART, {"c"}, "ann", ("a",)),
            Case(Place.SHOPPING_CART, {"b", "r"}, "", ("a",)),
        ],
        "product page, no user": [
            Case(Place.PRODUCT_DETAIL, {"c"}, context=("a",)),
            Case(Place.PRODUCT_DETAIL, {"b", "r"}, context=("a",)),
        ],
    }


def test_a_figure_of_a_few_lists() -> None:
    asked = [
        Case(Place.HOME_PAGE, {"a", "c"}, "ann"),
        Case(Place.HOME_PAGE, {"c"}, "ann", kind=Kind.OTHERS_YOU_MAY_LIKE, hidden={"a"}),
        Case(Place.SHOPPING_CART, {"b", "r"}, context=("a",)),
    ]
    lists = [["x", "a", "z"], [*"0123456789", "c"], ["b", "r"]]
    # Of the popular ones, x and a: a is hidden from the second and the third.
    assert figure("f", asked, lists, ["x", "a"]) == Figure("f", 3, Rate(2 / 3, 0.5), Rate(1 / 3, 0.5 / 3))


def test_structure_is_found_and_beats_popularity() -> None:
    events = list(orders(3000, users=60))
    split = split_day(events)
    assert split is not None
    train = [event for event in events if day_of(event) < split]
    found = figures_of(train, events[len(train) :])
    for name in ("home", "cart of 1", "cart of 3", "product page, no user"):
        assert found[name].ours.recall > 2 * found[name].popular.recall
        assert found[name].ours.hits > found[name].popular.hits + 0.1


def test_new_products_are_found_by_customers_of_the_same_taste() -> None:
    # Customers of a taste buy two of its ten products at a time: what they have not bought yet is found by the others' baskets.
    tastes = [[f"{taste}{number}" for number in range(10)] for taste in "abcdef"]
    events = [
        buys(n, f"user-{n % 48}", tastes[n % 6][(n * 7) % 10], tastes[n % 6][(n * 3 + n // 48) % 10], day=n / 48)
        for n in range(240)
    ]
    train, tests = events[:144], events[144:]
    discover = figures_of(train, tests)["discover"]
    assert discover.baskets > 20
    assert discover.ours.recall > 2 * discover.popular.recall


@pytest.mark.parametrize("tests", [[], [buys(1, "nobody", "a")]])
def test_without_a_basket_there_is_no_figure(tests: list[Event]) -> None:
    assert cases([buys(1, "ann", "a")], tests) == {}
