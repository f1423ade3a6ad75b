"""Keeps reads away from what Redis held before an outage, until its relay says that it was brought up to date.

Writes go on while a primary is away: PostgreSQL takes them, and the relay tells Redis later. So the primary that answers
again, or the replica that took its place and may have lost more, holds values that are out of date, and no version says so.
The relay's sign does: everything committed before a moment was told to the primaries of that moment. From the beginning of an
outage until a sign younger than its end, reads go past Redis to PostgreSQL.
"""

from collections.abc import Callable, Mapping, Sequence

from cache_sidecar.clock import Clock
from cache_sidecar.tiers.connection import Connection
from cache_sidecar.tiers.l2 import RedisL2
from cache_sidecar.tiers.names import Names
from cache_sidecar.tiers.ports import Leased, Record, partition_of

# Seconds by which the clock of a relay may be ahead of a sidecar's.
CLOCKS = 0.1


class Fence:
    """Which partitions are in doubt; a follower, see `ports.Follower`."""

    def __init__(self, *, longest: Callable[[], float], clock: Clock) -> None:
        """`longest` is the staleness bound, in seconds: without a sign for so long, replies say stale anyway."""
        self._longest = longest
        self._clock = clock
        self._lost: dict[int, float] = {}
        "When the outage began that a partition is in."
        self._doubted: dict[int, float] = {}
        "When the outage ended that a partition was in."

    def changed(self, id: str, version: int) -> None:
        """Says nothing of an outage."""

    def partition_changed(self, partition: int) -> None:
        """Says nothing of an outage: messages may be lost while Redis keeps what they were about."""

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Takes the beginning and the end of an outage."""
        now = self._clock.now() - late
        if not trusted:
            self._lost.setdefault(partition, now)
        elif self._lost.pop(partition, None) is not None:
            self._doubted[partition] = now

    def told(self, moment: float) -> None:
        """Takes the relay's sign: what was committed before a moment was told to the primaries of that moment."""
        for partition in [one for one, since in self._doubted.items() if since + CLOCKS <= moment]:
            del self._doubted[partition]

    def is_around(self, id: str) -> bool:
        """Whether Redis may hold something of an id that nobody told it is out of date."""
        if not self._lost and not self._doubted:
            return False
        partition = partition_of(id)
        since = self._lost.get(partition) or self._doubted.get(partition)
        return since is not None and self._clock.now() - since < self._longest()


class FencedL2(RedisL2):
    """An L2 that finds nothing where its fence stands. What is read from PostgreSQL meanwhile is filled in as ever."""

    def __init__(self, connection: Connection, names: Names, fence: Fence) -> None:
        super().__init__(connection, names)
        self._fence = fence

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes leases for what is not there; where the fence stands there is nothing, and no lease either."""
        asked = [id for id in ids if not self._fence.is_around(id)]
        return await super().read_leased(dataset, asked) if asked else Leased({}, {})

    async def read_doubted(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns what is there where the fence stands: for whoever has nothing better, and says that it may be out of date."""
        doubted = [id for id in ids if self._fence.is_around(id)]
        return await self.read(dataset, doubted) if doubted else {}
