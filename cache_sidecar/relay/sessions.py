"""Deletes the rows of expired and ended sessions, in batches."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.store.session import PURGE, SessionStore

# Seconds between two runs.
EVERY = 30.0
# Seconds for which a session's row is kept after it expired, by what PostgreSQL knows: that may be 5 minutes behind Redis.
EXPIRED_KEPT = 3600.0
# And after it was ended: ending it again, by a retry, finds it for as long.
ENDED_KEPT = 86_400.0


class ExpiredSessions:
    """Purges the sessions of one database. Any number of relays may do so concurrently."""

    def __init__(self, store: SessionStore, *, policy: Callable[[], DatasetPolicy], clock: Clock) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self.purged = 0
        "Rows that were deleted since the start."

    async def step(self) -> int:
        """Purges everything that is due, and returns how many rows that were."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        unused, ended = now - timedelta(seconds=self._policy().l2_ttl + EXPIRED_KEPT), now - timedelta(seconds=ENDED_KEPT)
        total = 0
        while purged := await self._store.purge(unused_since=unused, deleted_before=ended):
            total += purged
            self.purged += purged
            if purged < PURGE:
                break
        if total:
            telemetry.log.info("sessions purged", count=total)
        return total
