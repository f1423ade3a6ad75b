"""The last events of a process that people on call ask for: what failed and recovered, what was changed, and by whom."""

from collections import deque
from typing import NamedTuple

from cache_sidecar.core.clock import Clock

# Older ones are in the log.
KEPT = 50


class Event(NamedTuple):
    """Something that happened."""

    time: float
    "In seconds since the epoch."
    level: str
    "`info`, or `warning` for what is not well."
    text: str
    "One line, without personal data."


class RecentEvents:
    """The newest events, oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=KEPT)
        self.count = 0
        "Events since the start, those forgotten included."

    def add(self, text: str, *, level: str = "info") -> None:
        """Adds an event that happens now."""
        self._events.append(Event(self._clock.now(), level, text))
        self.count += 1

    def all(self) -> list[Event]:
        """Returns the events that are kept."""
        return list(self._events)
