"""`cache-sidecar recommendations rebuild`: the model is forgotten, and learned anew from the events that are kept.

The command clears the tables and waits; the relay that leads does the rest, whatever becomes of the command.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from cache_sidecar.core.backoff import Sleep
from cache_sidecar.core.errors import ServerUnreachable
from cache_sidecar.store.recommendation import ModelStore

# Seconds between two looks, and without a save after which the command gives up: a relay saves at least once a minute.
LOOK_EVERY, PATIENCE = 0.5, 180.0
_NO_LEADER = "no relay folds events in: start one with `cache-sidecar relay`"


class Report(NamedTuple):
    """What was learned anew."""

    events: int
    oldest_time: datetime | None
    "What came before it is forgotten."

    def line(self) -> str:
        """Returns what the command prints."""
        if self.oldest_time is None:
            return "There are no events: the model is empty."
        return f"Learned anew from {self.events:,} events, the oldest of {self.oldest_time:%Y-%m-%d}."


async def rebuild(
    dsn: str, *, progress: Callable[[int, int], None], sleep: Sleep = asyncio.sleep, patience: float = PATIENCE
) -> Report:
    """Has the model of a database learned anew, and waits; `progress` is called with how many events of all are folded in.

    Raises ServerUnreachable, with nothing changed if no relay leads.
    """
    async with ModelStore.connect(dsn) as store:
        if not await store.has_leader():
            raise ServerUnreachable(f"nothing was changed, since {_NO_LEADER}")
        await store.clear()
        found = await store.event_range()
        if found is None:
            return Report(0, None)
        reached, waited = 0, 0.0
        while reached < found.last:
            before, reached = reached, (await store.totals()).position
            waited = waited + LOOK_EVERY if reached == before else 0.0
            # Positions may have gaps.
            share = (min(reached, found.last) - found.first + 1) / (found.last - found.first + 1)
            progress(max(0, int(share * found.events)), found.events)
            if waited > patience:
                raise ServerUnreachable(f"the model was cleared, but {_NO_LEADER}")
            if reached < found.last:
                await sleep(LOOK_EVERY)
        return Report(found.events, found.oldest_time)
