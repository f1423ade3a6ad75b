"""Leases across sidecars: of all that miss an id, one loads it from PostgreSQL; the others wait for what it puts into Redis.

The lease stands in Redis in the value's place. Whoever finds another's there looks again, ever more rarely, until there is a
value, or the lease has ended: with its holder's death, or given back when the load failed. Then whoever looks next has it
(Nishtala et al., Scaling Memcache at Facebook, 2013, section 3.2.1).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.ports import Leased, Record

# Seconds between two looks: FIRST, then twice as long each time up to LAST; and after GIVE_UP, one loads without a lease. That
# is longer than a lease stands.
FIRST, LAST, GIVE_UP = 0.002, 0.05, 4.0
# Leases, ours and others', that are remembered: readers may leave between Redis and PostgreSQL.
MAX_LEASES = 20_000


class Leases:
    """What the last look into Redis said of who loads which ids of a dataset."""

    def __init__(self, look: Callable[[Iterable[str]], Awaitable[Mapping[str, Record]]]) -> None:
        """`look` reads ids from Redis and has what it finds noted here."""
        self._look = look
        self._ours: dict[str, bytes] = {}
        self._theirs: set[str] = set()
        self._waits: Batch[Record] = Batch(self._wait, max_ids=1, max_running=MAX_LEASES, max_waiting=MAX_LEASES)

    def note(self, ids: Iterable[str], found: Leased) -> None:
        """Remembers what a look found."""
        if len(self._ours) + len(found.leases) > MAX_LEASES:
            self._ours.clear()
        if len(self._theirs) + len(found.elsewhere) > MAX_LEASES:
            self._theirs.clear()
        self._theirs.difference_update(ids)
        self._theirs.update(found.elsewhere)
        self._ours.update(found.leases)

    def take(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Returns our leases of ids that are about to be loaded, each one once."""
        return {id: lease for id in ids if (lease := self._ours.pop(id, None))}

    def lacking(self, ids: Iterable[str]) -> list[str]:
        """Returns those ids that we have no lease of."""
        return [id for id in ids if id not in self._ours]

    def elsewhere(self, ids: Iterable[str]) -> list[str]:
        """Returns those ids that another sidecar is loading."""
        return [id for id in ids if id in self._theirs] if self._theirs else []

    async def outcome(self, ids: Sequence[str], *, until: float | None = None) -> dict[str, Record]:
        """Waits for what other sidecars load, until a moment in the event loop's time at most.

        Ids that are left out have to be loaded here.
        """
        try:
            return await self._waits.get(ids, until=until)
        except TimeoutError:
            return {}

    async def _wait(self, ids: Sequence[str]) -> Mapping[str, Record]:
        pause, until = FIRST, asyncio.get_running_loop().time() + GIVE_UP
        while self.elsewhere(ids) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST)
            if found := await self._look(ids):
                return found
        return {}

    def detach(self, id: str) -> None:
        """Makes later callers wait anew: what is waited for may already be out of date."""
        self._waits.detach(id)

    def detach_all(self) -> None:
        """Makes later callers of any id wait anew."""
        self._waits.detach_all()

    async def close(self) -> None:
        """Returns when nobody waits any more."""
        await self._waits.close()
