"""Leases across sidecars: of all that miss an id, one loads it from PostgreSQL; the others wait for what it puts into Redis.

The lease stands in Redis in the value's place. A sidecar that finds another's lease looks again, at growing intervals, until
there is a value, or the lease is gone: expired with its holder, or given back after a failed load. Then the next one that looks
gets the lease (Nishtala et al., Scaling Memcache at Facebook, 2013, section 3.2.1).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.ports import Leased, Record

# Seconds between two looks: FIRST, then twice as long each time up to LAST. After GIVE_UP, which is longer than a lease lasts,
# a reader loads without one.
FIRST, LAST, GIVE_UP = 0.002, 0.05, 4.0
# Leases, this sidecar's and others', that are remembered: readers may leave between Redis and PostgreSQL.
MAX_LEASES = 20_000


class Leases:
    """Who loads which ids of a dataset, as of the last read of Redis."""

    def __init__(self, look: Callable[[Iterable[str]], Awaitable[Mapping[str, Record]]], *, name: str = "load") -> None:
        """`look` reads ids from Redis and calls `note` with what it finds; `name` is that of a load's span."""
        self._look = look
        self._ours: dict[str, bytes] = {}
        self._theirs: set[str] = set()
        self._waits: Batch[Record] = Batch(self._wait, max_ids=1, max_running=MAX_LEASES, max_waiting=MAX_LEASES, name=name)

    def note(self, ids: Iterable[str], found: Leased) -> None:
        """Remembers what a read of ids found."""
        if len(self._ours) + len(found.leases) > MAX_LEASES:
            self._ours.clear()
        if len(self._theirs) + len(found.elsewhere) > MAX_LEASES:
            self._theirs.clear()
        self._theirs.difference_update(ids)
        self._theirs.update(found.elsewhere)
        self._ours.update(found.leases)

    def take(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Returns this sidecar's leases of ids that are about to be loaded, and forgets them: each is good for one load."""
        return {id: lease for id in ids if (lease := self._ours.pop(id, None))}

    def loading_elsewhere(self, ids: Iterable[str]) -> list[str]:
        """Returns the ids that another sidecar is loading."""
        return [id for id in ids if id in self._theirs] if self._theirs else []

    async def wait_for(self, ids: Sequence[str], *, until: float | None = None) -> dict[str, Record]:
        """Waits for what other sidecars load, until a moment in the event loop's time at most.

        Ids that are left out have to be loaded here.
        """
        try:
            return await self._waits.get(ids, until=until)
        except TimeoutError:
            return {}

    async def _wait(self, ids: Sequence[str]) -> Mapping[str, Record]:
        time = asyncio.get_running_loop().time
        pause, until = FIRST, time() + GIVE_UP
        while self.loading_elsewhere(ids) and time() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST)
            if found := await self._look(ids):
                return found
        return {}

    def forget_in_flight(self, id: str) -> None:
        """Has later callers wait for a result of their own: what is waited for may already be out of date."""
        self._waits.forget_in_flight(id)

    def forget_all_in_flight(self) -> None:
        """Has later callers of any id wait for a result of their own."""
        self._waits.forget_all_in_flight()

    async def close(self) -> None:
        """Returns when no caller is waiting."""
        await self._waits.close()
