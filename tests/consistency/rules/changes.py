"""Checks that every acknowledged change of a cart is in it, once. Pure.

PostgreSQL puts the changes of a cart into an order, that of their versions, and each reply says what the cart is then. So when
no change of a cart is under way, those that were acknowledged, taken in the order of their versions, have to make of the cart
what each of the replies says: a change that was lost, made twice, or made of an older cart is seen in the next one.

*Lost*: the reply to a change, or the cart that was read when nothing was under way, is another one than the changes make.
"""

from collections.abc import Callable
from typing import NamedTuple

from tests.consistency.rules.log import Log
from tests.support.cart_model import Key, Line, ModelCart

Lines = dict[Key, Line]
Change = Callable[[ModelCart], object]


class _Done(NamedTuple):
    version: int
    change: Change
    lines: Lines


class Changes:
    """The carts, as plain Python keeps them."""

    def __init__(self, carts: int, log: Log) -> None:
        self.checked = 0
        "Changes that were compared."
        self.log = log
        self.carts = [ModelCart() for _ in range(carts)]
        self._under_way = [0] * carts
        self.pending: list[list[_Done]] = [[] for _ in range(carts)]

    def begun(self, cart: int) -> None:
        """Takes that a change is under way, until `done` or `refused`; a client repeats it until it knows."""
        self._under_way[cart] += 1

    def done(self, cart: int, version: int, change: Change, lines: Lines) -> None:
        """Takes what was acknowledged: a version, and what the cart is then."""
        self.pending[cart].append(_Done(version, change, lines))
        self._ended(cart)

    def refused(self, cart: int) -> None:
        """Takes that a change was not made."""
        self._ended(cart)

    def read(self, cart: int, lines: Lines) -> None:
        """Takes what PostgreSQL holds at the end."""
        expected = self.carts[cart].lines
        if lines != expected:
            self.log.add("cart", "lost", cart=cart, **_difference(lines, expected))

    def _ended(self, cart: int) -> None:
        self._under_way[cart] -= 1
        if self._under_way[cart]:
            return
        done = sorted(self.pending[cart], key=lambda one: one.version)
        self.pending[cart].clear()
        while done:
            # A change that changes nothing has the version of the one before it: of those with one version, the one that fits.
            first = [one for one in done if one.version == done[0].version]
            fitting = next((one for one in first if self._made(cart, one) == one.lines), first[0])
            done.remove(fitting)
            self._compare(cart, fitting)

    def _made(self, cart: int, one: _Done) -> Lines:
        """Returns what a change makes of a cart as it is."""
        model = ModelCart(dict(self.carts[cart].lines))
        one.change(model)
        return model.lines

    def _compare(self, cart: int, one: _Done) -> None:
        self.checked += 1
        expected = self._made(cart, one)
        if one.lines != expected:
            self.log.add("cart", "lost", cart=cart, version=one.version, **_difference(one.lines, expected))
        self.carts[cart].lines = dict(one.lines)  # so that an error is told once


def _difference(found: Lines, expected: Lines) -> dict[str, object]:
    keys = [key for key in found | expected if found.get(key) != expected.get(key)][:5]
    return {
        "found": {key[0]: found[key].quantity if key in found else 0 for key in keys},
        "expected": {key[0]: expected[key].quantity if key in expected else 0 for key in keys},
    }
