"""Ends the trust in what is held in memory when it was not confirmed in time, whatever the event loop or Redis is doing.

A good heartbeat says that every change that Redis was told of before it began was heard. Trust lasts from there for a limited
time, and nobody has to notice its end: whoever reads from memory looks at the clock first. So neither a server that hangs nor
a process that was stopped, or had no processor, makes a reply older than that.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol


class LeaseHolder(Protocol):
    """What is trusted."""

    def on_expired(self, late: float) -> None:
        """FreshnessLease ended so many seconds ago."""
        ...


class FreshnessLease:
    """Until when what is held in memory is trusted, of each source of changes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that nobody sets back."""
        self.clock = clock
        self.until = math.inf
        "When the first of them lapses. A read from memory that comes later has to `check` first."
        self._ends: dict[LeaseHolder, float] = {}
        self._followers: list[Callable[[float], None]] = []

    def follow(self, follower: Callable[[float], None]) -> None:
        """Tells `until`, now and whenever it is another, to who reads from memory without looking here."""
        self._followers.append(follower)
        follower(self.until)

    def extend(self, holder: LeaseHolder, until: float) -> None:
        """Gives trust until a moment of the clock."""
        self._ends[holder] = until
        self._settle()

    def end(self, holder: LeaseHolder) -> None:
        """Takes trust that was given, if any."""
        self._ends.pop(holder, None)
        self._settle()

    def check(self) -> None:
        """Tells those whose trust has lapsed."""
        now = self.clock()
        if now < self.until:
            return
        on_expired = [(holder, end) for holder, end in self._ends.items() if end <= now]
        for holder, end in on_expired:
            # Told first: a reader in another thread sees that the trust is over, or that it lapsed, or both.
            holder.on_expired(now - end)
            self.end(holder)

    def _settle(self) -> None:
        self.until = min(self._ends.values(), default=math.inf)
        for follower in self._followers:
            follower(self.until)
