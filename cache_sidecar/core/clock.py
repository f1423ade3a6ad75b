"""Time as an argument: everything that ages reads a Clock, so that tests move time instead of waiting for it."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Returns seconds since the epoch. Compared across sidecars, so their clocks are expected to be synchronised."""
        ...

    def follow(self, follower: Callable[[float], None]) -> None:
        """Tells the time to what reads the machine's clock by itself, now and whenever this one is set apart from that."""
        ...


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)

    def follow(self, follower: Callable[[float], None]) -> None:
        """Does nothing: it is the machine's."""


class ManualClock:
    """A clock that stands still until it is moved; for tests."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._followers: list[Callable[[float], None]] = []

    def now(self) -> float:
        """Returns the time it was set to."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves time forward."""
        self._now += seconds
        for follower in self._followers:
            follower(self._now)

    def follow(self, follower: Callable[[float], None]) -> None:
        """Tells the time, now and whenever it is moved."""
        self._followers.append(follower)
        follower(self._now)
