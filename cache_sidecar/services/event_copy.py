"""How far the copy of the user events in MongoDB is behind, for metrics and for whoever asks what is degraded."""

from collections.abc import Callable

from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.store.user_event import UserEventStore

# Seconds between two looks, as every sidecar asks PostgreSQL, and the lag from which the copy counts as failing.
LOOK_EVERY = 30.0
BEHIND = 60.0


class EventCopyLag:
    """Asks PostgreSQL, where relays record when MongoDB had every event. Sidecars have no connection to MongoDB."""

    def __init__(self, store: UserEventStore, dependency: Callable[[], Dependency]) -> None:
        """`dependency` is only asked for where events are copied."""
        self._store = store
        self._dependency = dependency
        self.seconds: float | None = None
        "Since MongoDB had every event, when it was last looked; None if events are not copied."

    async def look(self) -> None:
        """Looks, and reports a copy that is behind."""
        try:
            self.seconds = await self._store.copy_lag()
        except TierFailed:
            return  # reported by its breaker
        if self.seconds is None:
            return
        if self.seconds < BEHIND:
            self._dependency().report_success()
        else:
            self._dependency().report_failure(
                f"no relay has confirmed for {self.seconds:.0f} s that MongoDB has all user events",
                effect="analytics from MongoDB is behind, and erasures of users wait",
            )
