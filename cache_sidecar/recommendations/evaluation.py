"""Measures lists against what customers then bought. Pure.

A model that was learned from the first days is asked for lists, and does not learn from the others. A list of 10 is a hit if
one of its products is in the basket (hit rate); recall is the share of the basket's products that are in the list. A basket
counts only for what the list could know: `home` and `discover` for the first basket of each customer who is known from the
first days, `discover` without what the customer bought before; `cart` for each basket without the lines that are already in
the cart, which are the first ones.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from cache_sidecar.recommendations.generator import Kind, Place
from cache_sidecar.recommendations.model import Event

SIZE = 10
# The share of the days from which the model is learned.
FIRST = 0.8
CARTS = (1, 3, 5)


class Case(NamedTuple):
    """A list to ask for, and what was bought."""

    place: Place
    target: Collection[str]
    user_id: str = ""
    context: Sequence[str] = ()
    "The products in the cart, or on the page."
    kind: Kind | None = None
    "None for what the place shows by default."
    hidden: Collection[str] = ()
    "What the list must not contain, besides `context`."


class Rate(NamedTuple):
    """How good lists are, on average."""

    hits: float
    recall: float


class Figure(NamedTuple):
    """One line of the result."""

    name: str
    baskets: int
    ours: Rate
    popular: Rate
    "Of the most popular products that the list might have contained."


def split_day(events: Iterable[Event], first: float = FIRST) -> date | None:
    """Returns the first day that the model is not learned from; None if there are less than two days with events."""
    days = sorted({day_of(event) for event in events})
    return days[min(max(int(len(days) * first), 1), len(days) - 1)] if len(days) > 1 else None


def day_of(event: Event) -> date:
    """Returns an event's day in UTC."""
    return datetime.fromtimestamp(event.time, UTC).date()


def cases(train: Iterable[Event], tests: Sequence[Event]) -> dict[str, list[Case]]:
    """Returns the lists to ask for, by the name of the figure; `train` was learned from, `tests` are later, by time."""
    bought: dict[str, set[str]] = {}
    for event in train:
        if event.user_id:
            bought.setdefault(event.user_id, set()).update(event.product_ids)
    first: dict[str, Event] = {}
    for event in tests:
        if event.user_id in bought:
            first.setdefault(event.user_id, event)
    found = {
        "home": [Case(Place.HOME_PAGE, set(event.product_ids), user_id) for user_id, event in first.items()],
        "discover": list(_discoveries(first, bought)),
        **{f"cart of {count}": list(_carts(tests, bought, count)) for count in CARTS},
        "product page, no user": list(_pages(tests)),
    }
    return {name: of_name for name, of_name in found.items() if of_name}


def figure(name: str, asked: Sequence[Case], lists: Iterable[Sequence[str]], popular: Sequence[str]) -> Figure:
    """Returns a figure: the cases with their lists, and all products, the most popular first."""
    ours = [_judge(list_[:SIZE], case.target) for case, list_ in zip(asked, lists, strict=True)]
    others = [_judge(_popular(case, popular), case.target) for case in asked]
    return Figure(name, len(asked), _mean(ours), _mean(others))


def _discoveries(first: Mapping[str, Event], bought: Mapping[str, set[str]]) -> Iterator[Case]:
    for user_id, event in first.items():
        if target := set(event.product_ids).difference(bought[user_id]):
            yield Case(Place.HOME_PAGE, target, user_id, kind=Kind.OTHERS_YOU_MAY_LIKE, hidden=bought[user_id])


def _carts(tests: Iterable[Event], known: Collection[str], count: int) -> Iterator[Case]:
    for event in tests:
        if len(event.product_ids) > count:
            cart, rest = event.product_ids[:count], set(event.product_ids[count:])
            yield Case(Place.SHOPPING_CART, rest, event.user_id if event.user_id in known else "", cart)


def _pages(tests: Iterable[Event]) -> Iterator[Case]:
    for event in tests:
        if len(event.product_ids) > 1:
            yield Case(Place.PRODUCT_DETAIL, set(event.product_ids[1:]), context=event.product_ids[:1])


def _popular(case: Case, popular: Sequence[str]) -> list[str]:
    hidden = {*case.context, *case.hidden}
    return [id for id in popular if id not in hidden][:SIZE]


def _judge(list_: Sequence[str], target: Collection[str]) -> Rate:
    hits = len(set(target).intersection(list_))
    return Rate(float(hits > 0), hits / len(target))


def _mean(rates: Sequence[Rate]) -> Rate:
    return Rate(*(sum(column) / len(rates) for column in zip(*rates, strict=True)))
