"""Computes a list from rows that are in memory, and says why each product is in it. Pure.

A product's score is the sum of four terms, each with the weight that its placement gives it:

- history: how regularly the user buys the product;
- context: the rows of the products in the cart, or on the page, scaled to sum 1;
- similar: the rows of the products that the user buys most regularly, each weighing its share of the user's purchases;
- popular: the product's share of all purchases.

Ties are broken by popularity, then by id. The same arguments give the same list: no clock, no chance.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from cache_sidecar.recommendations.model import PRODUCTS, USER_HALF_LIFE, User
from cache_sidecar.recommendations.rows import ItemRow, Neighbours

# Products in `Popular`: more than all that a list may leave out (500) or that a user has bought, and a page (100).
POPULAR = PRODUCTS + 1000
# Products of a user's history whose rows count.
STRONGEST = 50
# Added to a user's baskets, so that a first basket is not all that is shown.
PRIOR_BASKETS = 0.5


class Reason(StrEnum):
    """Why a product is in a list: its largest term."""

    BOUGHT_BEFORE = "BOUGHT_BEFORE"
    BOUGHT_TOGETHER = "BOUGHT_TOGETHER"
    ALSO_BOUGHT = "ALSO_BOUGHT"
    POPULAR = "POPULAR"
    PROVIDED = "PROVIDED"
    VIEWED = "VIEWED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What counts in a list, and how much."""

    history: float = 0.0
    context: float = 0.0
    similar: float = 0.0
    popular: float = 0.0
    is_new: bool = False
    "Whether the rows are those of the same customers instead of the same basket, and what was bought before is left out."
    fills_up: bool = True
    "Whether popular products follow when too few have a score."


HOME_PAGE = Placement(history=1, context=10, similar=4, popular=0.5)
OTHERS_YOU_MAY_LIKE = Placement(similar=1, is_new=True)
PRODUCT_DETAIL = SHOPPING_CART = CHECKOUT = Placement(history=1, context=10, similar=1, popular=0.1)
BUY_IT_AGAIN = Placement(history=1, fills_up=False)
BEST_SELLERS = Placement(popular=1)


class Terms(NamedTuple):
    """The terms of a score, which is their sum."""

    history: float = 0.0
    context: float = 0.0
    similar: float = 0.0
    popular: float = 0.0


class Result(NamedTuple):
    """One product of a list."""

    product_id: str
    score: float
    reason: Reason
    because_product_id: str
    "The product of the cart, the page or the history whose row gave most; empty for other reasons."
    terms: Terms


@dataclass(frozen=True, slots=True)
class Profile:
    """What lists need to know of a user."""

    shares: Mapping[str, float]
    "How regularly the user buys each product, from 0 to 1; the most regular first."
    bought: Collection[str]
    "All products bought before, as far as they are remembered."

    @property
    def strongest(self) -> list[str]:
        """The products whose rows count."""
        return list(islice(self.shares, STRONGEST))


NOBODY = Profile({}, frozenset())
"""The profile of an unknown user."""


@dataclass(frozen=True, slots=True)
class Popular:
    """The most popular products."""

    shares: Mapping[str, float]
    "Each product's share of all purchases, the most popular first."


def profile_of(user: User, model_time: float) -> Profile:
    """Returns a user's profile as of a time, in seconds since 1970."""
    sums: dict[str, float] = {}
    total = PRIOR_BASKETS
    for basket in user.baskets:
        left = 2.0 ** ((min(basket.time, model_time) - model_time) / USER_HALF_LIFE)
        total += left
        for product_id in basket.product_ids:
            sums[product_id] = sums.get(product_id, 0.0) + left
    ordered = sorted(sums.items(), key=lambda one: (-one[1], one[0]))
    return Profile({product_id: sum_ / total for product_id, sum_ in ordered}, frozenset(user.products))


def rank(
    placement: Placement,
    *,
    rows: Mapping[str, ItemRow],
    popular: Popular,
    profile: Profile = NOBODY,
    context: Sequence[str] = (),
    exclude: Collection[str] = (),
    size: int = 10,
) -> list[Result]:
    """Returns a list of at most `size` products, best first.

    `rows` needs the rows of `context`, the products in the cart or on the page, and of `profile.strongest`; those that are
    missing count as empty. What is in `context` or `exclude` is left out.
    """
    sources = _sources(placement, profile, context, rows)
    scores: dict[str, float] = {}
    if placement.history:
        for product_id, share in profile.shares.items():
            scores[product_id] = placement.history * share
    score_of = scores.get
    for _, row, factor in (*sources.context, *sources.similar):
        for product_id, share in row.items():
            scores[product_id] = score_of(product_id, 0.0) + factor * share
    shares = popular.shares
    hidden = {*context, *exclude, *(profile.bought if placement.is_new else ())}
    # Of the products with no other term only so many can be in the list: they are in the order of their scores.
    others = (product_id for product_id in shares if product_id not in scores and product_id not in hidden)
    if placement.popular:
        weight, share_of = placement.popular, shares.get
        scores = {product_id: score + weight * share_of(product_id, 0.0) for product_id, score in scores.items()}
        scores |= {product_id: placement.popular * shares[product_id] for product_id in list(islice(others, size))}
    best = _best(scores, shares, hidden, size)
    results = [_explain(product_id, scores, placement, sources, profile=profile, popular=shares) for product_id in best]
    if placement.fills_up and not placement.popular:
        results += [
            Result(product_id, 0.0, Reason.POPULAR, "", Terms()) for product_id in islice(others, max(0, size - len(results)))
        ]
    return results


class _Source(NamedTuple):
    """A product whose row adds to scores."""

    product_id: str
    row: Neighbours
    factor: float


class _Sources(NamedTuple):
    context: list[_Source]
    similar: list[_Source]


def _sources(placement: Placement, profile: Profile, context: Sequence[str], rows: Mapping[str, ItemRow]) -> _Sources:
    near: list[_Source] = []
    if placement.context:
        found = [(id, rows[id].together) for id in dict.fromkeys(context) if id in rows]
        total = sum(sum(row.values()) for _, row in found)
        near = [_Source(id, row, placement.context / total) for id, row in found if row]
    similar: list[_Source] = []
    if placement.similar:
        strongest = profile.strongest
        total = sum(profile.shares[id] for id in strongest)
        for id in strongest:
            if (row := rows.get(id)) is not None:
                neighbours = row.also if placement.is_new else row.together
                similar.append(_Source(id, neighbours, placement.similar * profile.shares[id] / total))
    return _Sources(near, similar)


def _best(scores: Mapping[str, float], popular: Mapping[str, float], hidden: Collection[str], size: int) -> list[str]:
    """Returns so many products that are not hidden: by score, the greatest first, then by popularity, then by id."""
    # Of a thousand scores a few count. Finding the least of those, hidden ones included, is cheaper than ordering them all.
    enough = size + len(hidden)
    least = sorted(scores.values())[-enough] if len(scores) > enough else -math.inf
    ordered = sorted((-score, -popular.get(id, 0.0), id) for id, score in scores.items() if score >= least)
    return list(islice((id for _, _, id in ordered if id not in hidden), size))


def _explain(
    product_id: str,
    scores: Mapping[str, float],
    placement: Placement,
    sources: _Sources,
    *,
    profile: Profile,
    popular: Mapping[str, float],
) -> Result:
    (near, nearest), (similar, most_similar) = (_term(product_id, part) for part in sources)
    terms = Terms(
        history=placement.history * profile.shares.get(product_id, 0.0),
        context=near,
        similar=similar,
        popular=placement.popular * popular.get(product_id, 0.0),
    )
    # In case of a tie, the more specific one.
    largest = terms.index(max(terms))
    reason, because = (
        (Reason.BOUGHT_BEFORE, ""),
        (Reason.BOUGHT_TOGETHER, nearest),
        (Reason.ALSO_BOUGHT if placement.is_new else Reason.BOUGHT_TOGETHER, most_similar),
        (Reason.POPULAR, ""),
    )[largest]
    return Result(product_id, scores[product_id], reason, because, terms)


def _term(product_id: str, sources: Sequence[_Source]) -> tuple[float, str]:
    """Returns the sum of what rows add to a product's score, and the product whose row adds most; of several, the first id."""
    total, most, because = 0.0, 0.0, ""
    for id, row, factor in sources:
        if product_id in row:
            part = factor * row[product_id]
            total += part
            if part > most or (part == most and id < because):
                most, because = part, id
    return total, because
