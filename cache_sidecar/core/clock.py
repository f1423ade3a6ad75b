"""Time as an argument: everything that expires reads a Clock, so that tests can move time instead of waiting."""

import time
from collections.abc import Callable
from typing import Protocol

# Seconds that the clocks of sidecars and relays may differ. What claims to be from later is forged, or from a clock that has to
# be set: it would count as fresh for as long as it likes.
CLOCK_SKEW = 5.0


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Returns seconds since the epoch. Compared across sidecars, so their clocks must be synchronised."""
        ...

    def follow(self, follower: Callable[[float], None]) -> None:
        """Calls `follower` with the time, now and whenever it is moved; for code that otherwise reads the machine's clock."""
        ...


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)

    def follow(self, follower: Callable[[float], None]) -> None:
        """Does nothing: this is the machine's clock."""
