"""Ends reservations whose time is over. PostgreSQL decides: who commits one at that moment wins or loses, never both.

That the stock changed, Redis hears from the relay of the outbox, like every change.
"""

import asyncio
import contextlib
from datetime import UTC, datetime

from cache_sidecar import telemetry
from cache_sidecar.clock import Clock
from cache_sidecar.errors import Overloaded, TierFailed
from cache_sidecar.store.reservation import HoldStore

# Seconds between two looks.
POLL = 1.0


class Holds:
    """Ends the holds of one database; any number of relays may do so side by side."""

    def __init__(self, store: HoldStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Ends what is due, every second, until cancelled."""
        while True:
            with contextlib.suppress(TierFailed, Overloaded):  # the database has said why
                if expired := await self.step():
                    telemetry.log.info("reservations expired", count=expired)
            await asyncio.sleep(POLL)

    async def step(self) -> int:
        """Ends everything that is due now, each reservation in a transaction of its own; returns how many there were."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        expired = 0
        while await self._store.expire_one(now) is not None:
            expired += 1
        return expired
