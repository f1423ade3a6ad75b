"""Expires L1's freshness lease unless a heartbeat renews it in time, whatever the event loop or Redis is doing.

A good heartbeat shows that every change published to Redis before the heartbeat began was received. From that beginning, what
is held in memory may be served for a limited time. Nothing has to notice the end: a read from memory checks the clock first. So
neither a server that hangs nor a process that was stopped, or got no CPU, makes a reply older than that.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol


class LeaseHolder(Protocol):
    """A source of changes that renews the lease."""

    def on_expired(self, late: float) -> None:
        """The holder's lease expired `late` seconds ago."""
        ...


class FreshnessLease:
    """Until when what is held in memory may be served, by each source of changes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds, and is never set back."""
        self.clock = clock
        self.until = math.inf
        "When the first holder's lease expires. A read from memory at or after that has to call `check` first."
        self._ends: dict[LeaseHolder, float] = {}
        self._followers: list[Callable[[float], None]] = []

    def follow(self, follower: Callable[[float], None]) -> None:
        """Calls `follower` with `until`, now and whenever it changes: for readers that cannot look here."""
        self._followers.append(follower)
        follower(self.until)

    def extend(self, holder: LeaseHolder, until: float) -> None:
        """Renews a holder's lease until a moment of the clock."""
        self._ends[holder] = until
        self._update()

    def end(self, holder: LeaseHolder) -> None:
        """Ends a holder's lease, if it has one."""
        self._ends.pop(holder, None)
        self._update()

    def check(self) -> None:
        """Calls the holders whose lease has expired."""
        now = self.clock()
        if now < self.until:
            return
        expired = [(holder, end) for holder, end in self._ends.items() if end <= now]
        for holder, end in expired:
            # In this order: the other way round, a reader in another thread could look in between, and find `until` in the
            # future and its partition still trusted.
            holder.on_expired(now - end)
            self.end(holder)

    def _update(self) -> None:
        self.until = min(self._ends.values(), default=math.inf)
        for follower in self._followers:
            follower(self.until)
