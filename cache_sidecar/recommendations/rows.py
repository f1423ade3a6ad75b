"""The neighbours of a product, computed from its sums. Pure."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import log
from typing import NamedTuple

from cache_sidecar.recommendations.model import TOGETHER_HALF_LIFE, Item, Totals, weight

# Neighbours in a row.
NEIGHBOURS = 50
# A row is published when these, in order, are others than before.
TOP = 10
# Added to a product's baskets, so that few baskets with it prove little.
PRIOR_BASKETS = 10.0
# Decimals of a probability. The last bits of a sum depend on the order of its terms, and must not decide between two products.
_DIGITS = 9

Neighbours = Mapping[str, float]
"""Products with their weights, best first."""


class ItemRow(NamedTuple):
    """What sidecars read of a product."""

    product_id: str
    together: Neighbours
    "The probability that a basket with this product has the other one."
    also: Neighbours
    "How much more often customers have both than by chance; sums to 1."
    model_time: float
    "The newest event that is counted, in seconds since 1970."

    def differs(self, other: "ItemRow | None") -> bool:
        """Whether the best neighbours are others."""
        return other is None or _top(self) != _top(other)


class Neighbour(NamedTuple):
    """What the row of another product needs to know of an item."""

    product_id: str
    customers: int


def item_row(item: Item, neighbours: Mapping[int, Neighbour], totals: Totals) -> ItemRow:
    """Returns a product's row; `neighbours` has each product of its pairs by number."""
    present = weight(totals.time, TOGETHER_HALF_LIFE)
    baskets = (item.baskets / present + PRIOR_BASKETS) * present
    least = _least(item.together.values()) - baskets * 2 / 10**_DIGITS
    together = {
        neighbours[number].product_id: round(sum_ / baskets, _DIGITS) for number, sum_ in item.together.items() if sum_ >= least
    }
    best = _best(_significant(item, neighbours, totals.customers))
    sum_of_best = sum(best.values()) or 1.0
    return ItemRow(item.product_id, _best(together.items()), {id: g2 / sum_of_best for id, g2 in best.items()}, totals.time)


def _least(sums: Collection[float]) -> float:
    """Returns the least sum of the best neighbours, before it is rounded."""
    return sorted(sums)[-NEIGHBOURS] if len(sums) > NEIGHBOURS else 0.0


def _significant(item: Item, neighbours: Mapping[int, Neighbour], all: int) -> Iterator[tuple[str, float]]:
    """Yields the products that customers buy with this one more often than by chance, and how certain that is.

    What is bought together less often is as significant, but no recommendation.
    """
    first = item.customers
    for number, both in item.also.items():
        product_id, second = neighbours[number]
        # What contradicts itself, as after an edit by hand, says nothing.
        if both <= first <= all and both <= second <= all and both * all > first * second:
            yield product_id, log_likelihood(both, first, second, all)


def log_likelihood(both: int, first: int, second: int, all: int) -> float:
    """Returns Dunning's G2 for how many of `all` customers have two products, and each of them (Dunning, 1993)."""
    terms = _x_log_x(all)
    g2 = terms[both] + terms[first - both] + terms[second - both] + terms[all - first - second + both]
    g2 += terms[all] - terms[first] - terms[all - first] - terms[second] - terms[all - second]
    # Never below 0, but for rounding.
    return max(0.0, 2.0 * g2)


_TERMS = array("d", [0.0])


def _x_log_x(most: int) -> Sequence[float]:
    """Returns x log x of all x up to `most`: the rows of products need it millions of times."""
    if len(_TERMS) <= most:
        _TERMS.extend(x * log(x) for x in range(len(_TERMS), most + 1))
    return _TERMS


def _best(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:NEIGHBOURS])


def _top(row: ItemRow) -> tuple[list[str], list[str]]:
    return list(row.together)[:TOP], list(row.also)[:TOP]
