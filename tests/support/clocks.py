"""A clock for tests. Time moves only when a test moves it."""

from collections.abc import Callable


class ManualClock:
    """A clock that moves only when told to; for tests."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._followers: list[Callable[[float], None]] = []

    def now(self) -> float:
        """Returns the current time of this clock."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves time forward."""
        self._now += seconds
        for follower in self._followers:
            follower(self._now)

    def follow(self, follower: Callable[[float], None]) -> None:
        """Calls `follower` with the time, now and whenever it is moved."""
        self._followers.append(follower)
        follower(self._now)
