"""What is known of products and users, and how an event changes it. Pure: `folder.py` reads and writes it.

The order of events does not matter. Each value is a sum over events, the newest N of something by its own time, or a function
of these: the same events give the same state in any order, and a rebuilt state equals one that was kept up to date for years.

Nothing is rewritten as time passes. Weights grow with the time of the event instead of shrinking with its age, and a sum is
divided by the weight of the present when it is read (Cormode et al., "Forward Decay", ICDE 2009).

Rows of pairs are pruned above `ROW_ENTRIES`. A pair that is pruned and comes back begins at zero. So if a product was bought
with more others than that, its weakest pairs depend on the order of the events.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple, TypeVar

DAY = 86_400.0
# Seconds in which a weight halves: of a product's popularity, of two products in one basket, and of a user's baskets. What is
# bought together changes slowly.
POPULAR_HALF_LIFE = 14 * DAY
TOGETHER_HALF_LIFE = 180 * DAY
USER_HALF_LIFE = 60 * DAY
# 2026-01-01. Weights are 1 there.
_LANDMARK = 1_767_225_600.0
# Beyond 2**1023 floats end. 1,000 half-lives of 14 days are 38 years.
_MAX_EXPONENT = 1000.0
# A basket's pairs weigh 1 / (lines - 1) each, so that a large one counts no more for a product than a small one. From this many
# lines on, that weight stays the same.
MAX_BASKET = 100
# What is kept of a user.
BASKETS = 20
PRODUCTS = 2000
# How many of a customer's products, the newest, count as bought by the same customer.
WINDOW = 200
# Pairs per product; a row that exceeds this is cut to half. No row does in a shop with fewer products.
ROW_ENTRIES = 4096

N = TypeVar("N", int, float)

PURCHASE = "purchase-complete"
VIEW = "detail-page-view"


class Event(NamedTuple):
    """What a user did. Types other than `PURCHASE` teach nothing but the time."""

    position: int
    "In the order in which events are read; each event has a greater one than those before it."
    event_id: str
    time: float
    "Seconds since 1970."
    user_id: str
    "Empty if unknown."
    type: str
    product_ids: Sequence[str]


class Basket(NamedTuple):
    """A purchase of a user."""

    time: float
    event_id: str
    product_ids: Sequence[str]


@dataclass(slots=True)
class Item:
    """Sums of one product."""

    number: int
    "Its short name in the rows of pairs."
    product_id: str
    popularity: float = 0.0
    "Baskets with it."
    baskets: float = 0.0
    "The same, with the half-life of `together`."
    customers: int = 0
    "Those who have it among their newest products."
    together: dict[int, float] = field(default_factory=dict)
    "For each product that was in a basket with it: the sum of 1 / (lines - 1)."
    also: dict[int, int] = field(default_factory=dict)
    "For each product: customers who have both among their newest products."


@dataclass(slots=True)
class User:
    """What is kept of one user."""

    user_id: str
    baskets: list[Basket] = field(default_factory=list)
    "The newest first."
    products: dict[str, float] = field(default_factory=dict)
    "When each product was last bought, the newest first."

    def window(self) -> list[str]:
        """Returns the newest products, at most `WINDOW`."""
        return [product_id for product_id, _ in zip(self.products, range(WINDOW), strict=False)]


@dataclass(slots=True)
class Totals:
    """What the whole model has one of."""

    position: int = 0
    "Events up to here are folded in."
    time: float = 0.0
    "The newest event's time; 0 before the first."
    popularity: float = 0.0
    "The sum over all products."
    customers: int = 0
    "Users with a purchase."


def weight(time: float, half_life: float) -> float:
    """Returns the weight of an event; divide by the weight of a later time for what is left of it then."""
    exponent: float = (time - _LANDMARK) / half_life
    return float(2.0 ** min(max(exponent, -_MAX_EXPONENT), _MAX_EXPONENT))


class Model:
    """Items and users, as many of them as are loaded."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals
        self.items: dict[str, Item] = {}
        self.users: dict[str, User] = {}
        self.changed_items: set[str] = set()
        self.changed_users: set[str] = set()
        self.new_pairs = 0
        "Pairs that came into being here."

    def move(self, event: Event) -> None:
        """Moves on to an event, which all others that were folded in precede."""
        self.totals.position = event.position
        self.totals.time = max(self.totals.time, event.time)

    def buy(self, event: Event) -> None:
        """Folds in a purchase; its products, its user and the products of the user's window must be loaded."""
        product_ids = tuple(dict.fromkeys(event.product_ids))
        if not product_ids:
            return
        popularity, basket = weight(event.time, POPULAR_HALF_LIFE), weight(event.time, TOGETHER_HALF_LIFE)
        items = [self.items[product_id] for product_id in product_ids]
        numbers = [item.number for item in items]
        pair = basket / (min(len(items), MAX_BASKET) - 1) if len(items) > 1 else 0.0
        for item in items:
            item.popularity += popularity
            item.baskets += basket
            if pair:
                row = item.together
                before = len(row)
                for number in numbers:
                    row[number] = row.get(number, 0.0) + pair
                del row[item.number]
                self.new_pairs += len(row) - before
                item.together = _prune(row)
        self.totals.popularity += popularity * len(items)
        self.changed_items.update(product_ids)
        if event.user_id:
            self._remember(self.users[event.user_id], Basket(event.time, event.event_id, product_ids))

    def _remember(self, user: User, basket: Basket) -> None:
        """Adds a basket to a user's history, and counts the pairs of products that are in the user's window now."""
        if not user.products:
            self.totals.customers += 1
        before = set(user.window())
        user.baskets = sorted([*user.baskets, basket], key=lambda one: (-one.time, one.event_id))[:BASKETS]
        user.products = _newest(user.products, basket.product_ids, basket.time, PRODUCTS)
        self.changed_users.add(user.user_id)
        after = set(user.window())
        if after == before:
            return
        come, stay, gone = (
            [self.items[product_id] for product_id in ids] for ids in (after - before, after & before, before - after)
        )
        numbers_after = [item.number for item in (*come, *stay)]
        numbers_before = [item.number for item in (*gone, *stay)]
        numbers_come = [item.number for item in come]
        numbers_gone = [item.number for item in gone]
        pairs = -sum(len(item.also) for item in (*come, *stay))
        for item in come:
            item.customers += 1
            _count(item, numbers_after, 1)
        for item in stay:
            _count(item, numbers_come, 1)
            _count(item, numbers_gone, -1)
        self.new_pairs += pairs + sum(len(item.also) for item in (*come, *stay))
        for item in gone:
            item.customers -= 1
            _count(item, numbers_before, -1)
        for item in (*come, *stay):
            item.also = _prune(item.also)
        self.changed_items |= after | before


def _newest(known: dict[str, float], product_ids: Iterable[str], time: float, limit: int) -> dict[str, float]:
    """Returns the newest products with their times, the newest first; of equal times by id."""
    for product_id in product_ids:
        known[product_id] = max(time, known.get(product_id, time))
    # Two sorts, as the second one keeps the order of equals: three times faster than one by a key of both.
    ordered = sorted(known.items())
    ordered.sort(key=itemgetter(1), reverse=True)
    return dict(ordered[:limit])


def _count(item: Item, numbers: Iterable[int], change: int) -> None:
    """Adds to the counts of an item's pairs. A count that a pruned pair lacks is not missed: none is below 1."""
    row, own = item.also, item.number
    for number in numbers:
        if number != own:
            count = row.get(number, 0) + change
            if count > 0:
                row[number] = count
            else:
                row.pop(number, None)


def _prune(row: dict[int, N]) -> dict[int, N]:
    if len(row) <= ROW_ENTRIES:
        return row
    return dict(heapq.nsmallest(ROW_ENTRIES // 2, row.items(), key=lambda pair: (-pair[1], pair[0])))


def windows(events: Iterable[Event], users: dict[str, User]) -> Iterator[str]:
    """Yields the products that `Model.buy` needs besides those of the events: the windows that will change."""
    bought: dict[str, set[str]] = {}
    for event in events:
        if event.user_id:
            bought.setdefault(event.user_id, set()).update(event.product_ids)
    for user_id, product_ids in bought.items():
        window = users[user_id].window()
        # A window whose products are bought again stays the same set.
        if not product_ids.issubset(window):
            yield from window
