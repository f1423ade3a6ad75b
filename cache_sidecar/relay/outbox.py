"""Tells Redis of every committed change: also of those whose writer died, had no Redis, or was another program.

Most were told by their writer already; then Redis keeps what it has, and whoever is told once more finds nothing to drop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cache_sidecar import telemetry
from cache_sidecar.errors import TierFailed
from cache_sidecar.policy import Policy
from cache_sidecar.store.outbox import Change, RelayStore
from cache_sidecar.tiers.ports import L2

# Changes told in one go.
PAGE = 1000
# Seconds between two looks when nobody wakes the relay, between attempts after a failure, and between two clean-ups.
POLL = 1.0
RETRY = 0.5
PRUNE_EVERY = 30.0
# A repeat of a request gets its first reply for so many seconds.
REQUESTS_KEPT = 86_400.0


class Relay:
    """Follows the outbox of one database for the Redis of one region."""

    def __init__(self, store: RelayStore, l2: L2, policy: Policy, *, region: str, retention: float) -> None:
        self._store = store
        self._l2 = l2
        self._policy = policy
        self._region = region
        self._retention = retention

    async def run(self, *, woken: Callable[[float], Awaitable[None]]) -> None:
        """Relays until cancelled. `woken` waits for a sign of a change, at most so many seconds."""
        loop = asyncio.get_running_loop()
        next_prune = loop.time()
        while True:
            try:
                is_behind = await self.step() == PAGE
                # Also when there is always something to tell.
                if loop.time() >= next_prune:
                    is_done = await self._store.prune(changes_after=self._retention, requests_after=REQUESTS_KEPT)
                    next_prune = loop.time() + (PRUNE_EVERY if is_done else 0)
            except TierFailed as error:
                telemetry.log.warning("cannot relay changes; trying again", error=str(error))
                await asyncio.sleep(RETRY)
            else:
                if not is_behind:
                    await woken(POLL)

    async def step(self) -> int:
        """Tells Redis of the next changes, then remembers that they are told; returns how many there were."""
        changes = await self._store.pending(self._region, limit=PAGE)
        if changes:
            await self._tell(changes)
            await self._store.told(self._region, changes[-1].position)
        return len(changes)

    async def _tell(self, changes: Sequence[Change]) -> None:
        # Only the last change of an id matters, and the changes of an id come in the order of their versions.
        latest: dict[str, dict[str, int]] = {}
        for change in changes:
            latest.setdefault(change.dataset, {})[change.id] = change.version
        for dataset, versions in latest.items():
            if dataset in self._policy:
                await self._l2.change(dataset, versions, ttl=self._policy[dataset].l2_ttl)
