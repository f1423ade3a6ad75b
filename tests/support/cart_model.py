"""A model of a cart in plain Python: it uses none of the product's code, so that the two can be compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from google.type.money_pb2 import Money

from cache_sidecar.v1.cart_pb2 import Cart, CartItem

MAX_QUANTITY = 999


class Line(NamedTuple):
    """The values of a line, without its key."""

    quantity: int
    price: tuple[int, int, str]


Key = tuple[str, tuple[tuple[str, str], ...]]


def key_of(product_id: str, options: Mapping[str, str]) -> Key:
    """Returns the key of a line."""
    return product_id, tuple(sorted(options.items()))


def lines_of(cart: Cart) -> dict[Key, Line]:
    """Returns the lines of a cart from the service, in its order."""
    lines = {}
    for item in cart.items:
        price = (item.unit_price.units, item.unit_price.nanos, item.unit_price.currency_code)
        lines[key_of(item.product_id, item.options)] = Line(item.quantity, price)
    return lines


@dataclass
class ModelCart:
    """A cart; dicts keep their order."""

    lines: dict[Key, Line] = field(default_factory=dict)

    def add(self, item: CartItem, *, most: int | None = None) -> bool:
        """Adds pieces. Returns False, and changes nothing, when the line would have too many."""
        key = key_of(item.product_id, item.options)
        quantity = item.quantity + (self.lines[key].quantity if key in self.lines else 0)
        if most is not None:
            quantity = min(quantity, most)
        if quantity > MAX_QUANTITY:
            return False
        price = item.unit_price
        self.lines[key] = Line(quantity, (price.units, price.nanos, price.currency_code))
        return True

    def set_quantity(self, product_id: str, options: Mapping[str, str], quantity: int) -> bool:
        """Sets a quantity. Returns False when there is no such line."""
        key = key_of(product_id, options)
        if key not in self.lines:
            return False
        if quantity:
            self.lines[key] = self.lines[key]._replace(quantity=quantity)
        else:
            del self.lines[key]
        return True

    def remove(self, product_id: str, options: Mapping[str, str]) -> None:
        """Removes a line if it exists."""
        self.lines.pop(key_of(product_id, options), None)

    def merge(self, guest: "ModelCart") -> None:
        """Moves a guest's lines here."""
        for (product_id, options), line in guest.lines.items():
            units, nanos, code = line.price
            price = Money(units=units, nanos=nanos, currency_code=code)
            self.add(
                CartItem(product_id=product_id, options=dict(options), quantity=line.quantity, unit_price=price),
                most=MAX_QUANTITY,
            )
        guest.lines.clear()

    def totals(self) -> dict[str, Fraction]:
        """Returns what the lines cost, by currency."""
        sums: dict[str, Fraction] = {}
        for quantity, (units, nanos, code) in self.lines.values():
            sums[code] = sums.get(code, Fraction(0)) + quantity * (units + Fraction(nanos, 10**9))
        return sums

    def check(self, cart: Cart) -> None:
        """Asserts that a cart from the service is this one."""
        assert list(lines_of(cart).items()) == list(self.lines.items())
        totals = {total.currency_code: total.units + Fraction(total.nanos, 10**9) for total in cart.totals}
        assert totals == self.totals()
