"""The rules for changes of a cart's lines. Pure: lines in, lines out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from google.type.money_pb2 import Money

from cache_sidecar.core.errors import InvalidRequest, LimitReached, NotFound
from cache_sidecar.store.cart import Item

NANOS = 10**9
MAX_UNITS = 2**63 - 1

Items = Sequence[Item]


class Limits(NamedTuple):
    """How large a cart may grow."""

    items: int
    "Lines."
    quantity: int
    "Pieces in a line."


def add(items: Items, new: Item, limits: Limits) -> Items:
    """Returns the lines with pieces of a product added, at the new price. Raises LimitReached."""
    at = _find(items, new.product_id, new.options)
    quantity = new.quantity + (items[at].quantity if at is not None else 0)
    return _put(items, at, new._replace(quantity=quantity), limits)


def merge(items: Items, others: Items, limits: Limits) -> Items:
    """Returns the lines with another cart's added, quantities capped at the limit. Raises LimitReached for too many lines."""
    for other in others:
        at = _find(items, other.product_id, other.options)
        quantity = other.quantity + (items[at].quantity if at is not None else 0)
        items = _put(items, at, other._replace(quantity=min(quantity, limits.quantity)), limits)
    return items


def set_quantity(items: Items, product_id: str, options: Mapping[str, str], quantity: int, limits: Limits) -> Items:
    """Returns the lines with one quantity changed; 0 removes the line. Raises NotFound and LimitReached."""
    at = _find(items, product_id, options)
    if at is None:
        raise NotFound("cart item", product_id)
    if quantity == 0:
        return _without(items, at)
    return _put(items, at, items[at]._replace(quantity=quantity), limits)


def remove(items: Items, product_id: str, options: Mapping[str, str]) -> Items:
    """Returns the lines without one, if they have it."""
    at = _find(items, product_id, options)
    return items if at is None else _without(items, at)


def replace(new: Iterable[Item], limits: Limits) -> Items:
    """Returns the lines of a new cart. Raises InvalidRequest when two are the same, and LimitReached."""
    items: Items = ()
    for number, item in enumerate(new):
        if _find(items, item.product_id, item.options) is not None:
            raise InvalidRequest({f"cart.items[{number}]": "is a second line of the same product with the same options"})
        items = add(items, item, limits)
    return items


def totals(items: Items) -> list[Money]:
    """Returns the exact totals of the lines, one per currency, by code. Raises InvalidRequest for more than Money holds."""
    sums: dict[str, int] = {}
    for item in items:
        price = item.price_units * NANOS + item.price_nanos
        sums[item.currency_code] = sums.get(item.currency_code, 0) + price * item.quantity
    made = []
    for code in sorted(sums):
        units, nanos = divmod(sums[code], NANOS)
        if units > MAX_UNITS:
            raise InvalidRequest({"unit_price": f"the total in {code} would be more than google.type.Money holds"})
        made.append(Money(currency_code=code, units=units, nanos=nanos))
    return made


def _find(items: Items, product_id: str, options: Mapping[str, str]) -> int | None:
    for at, item in enumerate(items):
        if item.product_id == product_id and item.options == options:
            return at
    return None


def _put(items: Items, at: int | None, item: Item, limits: Limits) -> Items:
    if item.quantity > limits.quantity:
        raise LimitReached("pieces in a line of a cart", limits.quantity)
    if at is not None:
        return (*items[:at], item, *items[at + 1 :])
    if len(items) >= limits.items:
        raise LimitReached("lines in a cart", limits.items)
    return (*items, item)


def _without(items: Items, at: int) -> Items:
    return (*items[:at], *items[at + 1 :])
