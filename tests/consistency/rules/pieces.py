"""Checks that no piece of a stock is sold twice, and none is lost. Pure: times are arguments, in seconds of one clock.

1. *Oversold*: the pieces of acknowledged reservations that nobody tried to give back, and that cannot have expired, are never more
   than there were: what the stock began with, and what was, or may have been, added.
2. *Repeat*: a repeat with the same request_id gets the first reply.
3. *Expired*: a reservation is not over by itself before its time. The clocks of relays may differ by `Bounds.clock`.
4. *Lost*: at the end, when every client knows what became of its calls, PostgreSQL holds every acknowledged reservation in the
   state that was acknowledged, none that nobody asked for, and of each product as many pieces as the acknowledged changes leave.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tests.consistency.rules.log import Log

_DATASET = "inventory"
HELD, COMMITTED, RELEASED, EXPIRED = "held", "committed", "released", "expired"
# First replies that are remembered, to be asked for again.
REMEMBERED = 500


@dataclass(slots=True)
class _Reservation:
    pieces: Mapping[int, int]
    expires: float
    "The earliest moment at which it may be over."
    state: str = HELD
    may_be_over: bool = False
    "Whether somebody tried to end it, or it may have expired: its pieces count for `oversold` no longer."


class Stored(NamedTuple):
    """A reservation as PostgreSQL holds it."""

    state: str
    pieces: Mapping[int, int]


@dataclass
class Pieces:
    """All products, by number."""

    stock: list[int]
    "What each begins with."
    log: Log
    clock: float = 0.05
    grants: int = 0
    adjusted: Counter[int] = field(default_factory=Counter)
    "Pieces that acknowledged adjustments added."
    reservations: dict[str, _Reservation] = field(default_factory=dict)
    _may_be_added: Counter[int] = field(default_factory=Counter)
    "Pieces that adjustments added, or may yet."
    _certain: Counter[int] = field(default_factory=Counter)
    "Pieces that are certainly held or sold."
    _sold: Counter[int] = field(default_factory=Counter)
    "Pieces of committed reservations that were audited."
    _audited: int = 0
    first_replies: dict[str, str] = field(default_factory=dict)
    "The first reply to a request_id."

    def clocks_differ(self, seconds: float) -> None:
        """From now on a reservation may expire so much earlier."""
        more = max(0.0, seconds - self.clock)
        self.clock += more
        for reservation in self.reservations.values():
            reservation.expires -= more

    # Reservations

    def granted(self, id: str, pieces: Mapping[int, int], *, called: float, hold: float, at: float) -> None:
        """Takes an acknowledged reservation, which expires `hold` seconds after a moment that is not before the call."""
        self.grants += 1
        reservation = self.reservations[id] = _Reservation(pieces, expires=called + hold - self.clock)
        if reservation.expires <= at:
            reservation.may_be_over = True
            return
        self._certain.update(pieces)
        for product in pieces:
            limit = self.stock[product] + self._may_be_added[product]
            if self._certain[product] > limit:
                # One that expired since time was last looked at may have made room for this one.
                self.passed(at)
            if self._certain[product] > limit:
                self.log.add(_DATASET, "oversold", product=product, held_or_sold=self._certain[product], limit=limit)

    def ending(self, id: str) -> None:
        """Takes that a call begins that may give back what a reservation holds."""
        self._uncertain(self.reservations[id])

    def ended(self, id: str, state: str) -> None:
        """Takes what a reservation came to."""
        reservation = self.reservations[id]
        reservation.state = state
        if state in {RELEASED, EXPIRED}:
            self._uncertain(reservation)
        else:
            reservation.expires = inf

    def over_already(self, id: str, state: str, *, replied: float) -> None:
        """Takes that a call found a reservation that nobody ended over."""
        reservation = self.reservations[id]
        if replied < reservation.expires and not reservation.may_be_over:
            left = reservation.expires - replied
            self.log.add(_DATASET, "expired", reservation=id, state=state, left=left)
        self.ended(id, state)

    def passed(self, now: float) -> None:
        """Takes that time passed: what may have expired may be sold again."""
        for reservation in self.reservations.values():
            if reservation.expires <= now:
                self._uncertain(reservation)

    def _uncertain(self, reservation: _Reservation) -> None:
        if not reservation.may_be_over:
            reservation.may_be_over = True
            self._certain.subtract(reservation.pieces)

    # Adjustments

    def adjusting(self, product: int, delta: int) -> None:
        """Takes that a call begins that may change a stock."""
        self._may_be_added[product] += max(delta, 0)

    def adjusted_by(self, product: int, delta: int) -> None:
        """Takes an acknowledged change."""
        self.adjusted[product] += delta
        self._may_be_added[product] += min(delta, 0)

    def not_adjusted(self, product: int, delta: int) -> None:
        """Takes that a change was refused."""
        self._may_be_added[product] -= max(delta, 0)

    # Repeats

    def replied(self, request_id: str, reply: str) -> None:
        """Takes the reply to a request, the first or another one, as text."""
        first = self.first_replies.setdefault(request_id, reply)
        if first != reply:
            self.log.add(_DATASET, "repeat", request_id=request_id, first=first, now=reply)
        if len(self.first_replies) > REMEMBERED:
            del self.first_replies[next(iter(self.first_replies))]

    # What PostgreSQL holds

    def over(self, at_most: int) -> list[str]:
        """Returns reservations that came to an end which nothing changes any more."""
        return [id for id, one in self.reservations.items() if one.state != HELD][:at_most]

    def audited(self, found: Mapping[str, Stored]) -> None:
        """Takes what PostgreSQL holds of reservations that are over: they need not be remembered any longer."""
        for id, stored in found.items():
            reservation = self.reservations.pop(id)
            self._compare(id, reservation, stored)
            self._audited += 1
            if stored.state == COMMITTED:
                self._sold.update(stored.pieces)

    def held(self) -> list[str]:
        """Returns those that were held last, and may have expired since."""
        return list(self.reservations)

    def at_rest(self, stock: Mapping[int, tuple[int, int]], found: Mapping[str, Stored], *, reservations: int) -> None:
        """Takes what PostgreSQL holds when nothing is under way and nothing is due any more.

        That is what is available and reserved of each product, what there is of `held`, and how many reservations there are.
        """
        held = Counter[int]()
        sold = Counter(self._sold)
        for id, reservation in self.reservations.items():
            stored = found.get(id)
            if stored is None:
                self.log.add(_DATASET, "lost", reservation=id, known=reservation.state)
                continue
            self._compare(id, reservation, stored)
            if stored.state in {HELD, COMMITTED}:
                (held if stored.state == HELD else sold).update(stored.pieces)
        known = self._audited + len(self.reservations)
        if reservations != known:
            self.log.add(_DATASET, "lost", reservations=reservations, known=known)
        for product, began_with in enumerate(self.stock):
            expected = (began_with + self.adjusted[product] - held[product] - sold[product], held[product])
            if stock[product] != expected:
                self.log.add(_DATASET, "lost", product=product, available_and_reserved=stock[product], expected=expected)

    def _compare(self, id: str, reservation: _Reservation, stored: Stored) -> None:
        # Whoever holds one need not be told that it expired.
        has_expired = stored.state == EXPIRED and reservation.state == HELD and reservation.may_be_over
        if (stored.state != reservation.state and not has_expired) or stored.pieces != reservation.pieces:
            self.log.add(_DATASET, "lost", reservation=id, state=stored.state, known=reservation.state, pieces=stored.pieces)
