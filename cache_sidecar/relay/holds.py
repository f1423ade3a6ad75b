"""Expires reservations.

PostgreSQL decides when a hold expires: a caller that commits at the same moment wins or loses the row, never both. The change
of stock reaches Redis as every change does, through the outbox.
"""

from datetime import UTC, datetime

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.store.reservation import Ended, HoldStore

# Seconds between two runs.
EVERY = 1.0
# Seconds between two log lines about holds that cannot be released.
LOG_EVERY = 60.0


class ExpiredHolds:
    """Expires the holds of one database. Any number of relays may do so concurrently."""

    def __init__(self, store: HoldStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.expired = 0
        "Reservations that were expired since the start."
        self.unreleased = 0
        "Attempts that failed because the stock could not be released."
        self._refusals = LogLimit(every=LOG_EVERY, monotonic=clock.now)

    async def step(self) -> int:
        """Expires everything that is due, each reservation in its own transaction; returns how many were expired."""
        now, before = datetime.fromtimestamp(self._clock.now(), UTC), self.expired
        while (ended := await self._store.expire_one(now)) is not None:
            if ended.refused:
                self.unreleased += 1
                self._log(ended)  # the store makes it due again a second later, so this loop ends
            else:
                self.expired += 1
        if expired := self.expired - before:
            telemetry.log.info("reservations expired", count=expired)
        return expired

    def _log(self, ended: Ended) -> None:
        if self._refusals.should_log():
            telemetry.log.error(
                "an expired reservation cannot be released, its stock stays reserved; will retry",
                reservation=str(ended.reservation_id),
                error=ended.refused,
                attempts=self._refusals.count,
            )
