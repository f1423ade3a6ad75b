"""Remembers for a few seconds which ids have expired, so that repeated reads of one do not each query PostgreSQL. Bounded."""

from cache_sidecar.core.clock import Clock

# Seconds for which an id is remembered, and the maximum number of ids.
REMEMBER_FOR = 5.0
MAX_IDS = 20_000


class RecentlyExpired:
    """The ids that were found expired a moment ago."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def remember(self, id: str) -> None:
        """Remembers that an id has expired; when there are too many, the one remembered longest is forgotten."""
        self._since.pop(id, None)
        if len(self._since) >= MAX_IDS:
            del self._since[next(iter(self._since))]
        self._since[id] = self._clock.now()

    def holds(self, id: str) -> bool:
        """Whether an id was found expired within the last `REMEMBER_FOR` seconds."""
        since = self._since.get(id)
        return since is not None and self._clock.now() - since < REMEMBER_FOR

    def forget(self, id: str) -> None:
        """Forgets an id: it has changed."""
        self._since.pop(id, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._since.clear()
