"""Ends reservations whose time is over. PostgreSQL decides: who commits one at that moment wins or loses, never both.

That the stock changed, Redis hears from the relay of the outbox, like every change.
"""

import asyncio
import contextlib
from datetime import UTC, datetime

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.store.reservation import Ended, HoldStore

# Seconds between two looks.
POLL = 1.0
# Seconds between two lines about holds that cannot be ended.
LOG_EVERY = 60.0


class ExpiredHolds:
    """Ends the holds of one database; any number of relays may do so side by side."""

    def __init__(self, store: HoldStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._refused = 0
        "Attempts that were refused since that was logged last."
        self._logged_at = float("-inf")

    async def run(self) -> None:
        """Ends what is due, every second, until cancelled."""
        while True:
            with contextlib.suppress(TierFailed, Overloaded):  # the database has said why
                if expired := await self.step():
                    telemetry.log.info("reservations expired", count=expired)
            await asyncio.sleep(POLL)

    async def step(self) -> int:
        """Ends everything that is due now, each reservation in a transaction of its own; returns how many it ended."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        expired = 0
        while (ended := await self._store.expire_one(now)) is not None:
            if ended.refused:
                self._log(ended)  # and it is not due again before a second has passed
            else:
                expired += 1
        return expired

    def _log(self, ended: Ended) -> None:
        self._refused += 1
        now = self._clock.now()
        if now - self._logged_at < LOG_EVERY:
            return
        telemetry.log.error(
            "an expired reservation cannot be released, its stock stays reserved; will retry",
            reservation=str(ended.reservation_id),
            error=ended.refused,
            attempts=self._refused,
        )
        self._logged_at, self._refused = now, 0
