"""Deletes the rows of sessions that are over, in batches."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.store.session import PURGE, SessionStore

# Seconds between two looks.
EVERY = 30.0
# Seconds that a session's row is kept after its expiry, of which PostgreSQL may not have heard the last 5 minutes; and after
# its end, which can be repeated as long.
EXPIRED_KEPT = 3600.0
ENDED_KEPT = 86_400.0


class ExpiredSessions:
    """Purges the sessions of one database; any number of relays may do so side by side."""

    def __init__(self, store: SessionStore, *, policy: Callable[[], DatasetPolicy], clock: Clock) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock

    async def run(self) -> None:
        """Purges every so often, until cancelled."""
        while True:
            with contextlib.suppress(TierFailed, Overloaded):  # the database has said why
                if purged := await self.step():
                    telemetry.log.info("sessions purged", count=purged)
            await asyncio.sleep(EVERY)

    async def step(self) -> int:
        """Purges everything that is due now, and returns how much that was."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        unused, ended = now - timedelta(seconds=self._policy().l2_ttl + EXPIRED_KEPT), now - timedelta(seconds=ENDED_KEPT)
        total = 0
        while purged := await self._store.purge(unused_since=unused, deleted_before=ended):
            total += purged
            if purged < PURGE:
                break
        return total
