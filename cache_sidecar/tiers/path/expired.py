"""Remembers for a while what is over, so that asking for it again is not asking PostgreSQL again. Bounded."""

from cache_sidecar.core.clock import Clock

# Seconds for which something is remembered, and ids that are.
REMEMBERED = 5.0
MAX_IDS = 20_000


class RecentlyExpired:
    """The ids that were over a moment ago."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def remember(self, id: str) -> None:
        """Takes that an id is over; when there are too many, the one remembered longest is forgotten."""
        self._since.pop(id, None)
        if len(self._since) >= MAX_IDS:
            del self._since[next(iter(self._since))]
        self._since[id] = self._clock.now()

    def holds(self, id: str) -> bool:
        """Whether an id is known to be over."""
        since = self._since.get(id)
        return since is not None and self._clock.now() - since < REMEMBERED

    def forget(self, id: str) -> None:
        """Forgets an id: it was changed."""
        self._since.pop(id, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._since.clear()
