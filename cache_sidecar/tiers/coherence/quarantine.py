"""Decides which reads of Redis count, by the reader's own clock.

What a partition holds is known to be up to date as long as its changes are heard from the node that holds it: from a good
heartbeat's beginning for `subscriber.staleness_bound` seconds, see `freshness_lease.py`. That is the footing of a read, and it
has to be there before the read and, the same one, after it. A read that was on its way to a primary that hung may be answered
when that one wakes up and another has long taken its place; so may one that an old slot map sent there.

Writes go on while a primary is away: PostgreSQL takes them, and the relay tells Redis later. So the primary that answers
again, or the replica that took its place and may have lost more, holds values that are out of date, and no version says so.
The relay's marks do. It writes one into each partition, on the very node that it looked at before, once that node was told of
everything. The looks of one relay follow each other: of three different marks that were seen on a node since its footing began,
the look of the last one began after the first one was seen. No clock is compared with another one for that. Until then the
partition is in doubt, and PostgreSQL answers; without a relay until `Region` has marked its replies stale.

A quarantine begins in doubt everywhere: a sidecar that starts does not know whether a primary has just been replaced, and it
may be told who holds what by an old primary that woke up a moment ago.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.core.clock import Clock
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.ports import PARTITIONS, Leased, Record, Times, Watermark, partition_of
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.node import Address

# Different marks of one relay that end a doubt.
MARKS = 3
# Characters of a replication id that tell it from another.
HISTORY = 8


class Footing(NamedTuple):
    """What reads of a partition rest on. Another object each time that it is gained anew."""

    address: Address
    "The node that its changes are heard from."
    history: str
    "What names the history of that node: the beginning of its replication id."


class Quarantine:
    """The footing of each partition, and which are in doubt, of the datasets of one database."""

    def __init__(self, *, freshness_lease: FreshnessLease, holder: Callable[[int], Address | None], clock: Clock) -> None:
        """`holder` says which node a read of a partition would be sent to."""
        self._freshness_lease = freshness_lease
        self._holder = holder
        self._clock = clock
        self._footings: list[Footing | None] = [None] * PARTITIONS
        self._waiting = dict.fromkeys(range(PARTITIONS), clock.now())
        "Since when a partition has no footing, or is in doubt, in seconds since the epoch."
        self._seen: dict[int, dict[str, set[int]]] = {partition: {} for partition in range(PARTITIONS)}
        "Of the partitions that are in doubt: the marks seen, by relay."
        self._opened: set[int] = set()
        "Those that are read all the same, as replies say stale."

    # What is heard

    def heard(self, partitions: Iterable[int], address: Address, history: str) -> None:
        """Every change in partitions is heard, from a node of a history."""
        for partition in partitions:
            self._footings[partition] = Footing(address, history[:HISTORY])
            self._waiting.pop(partition, None)
            if partition in self._seen:
                # Changes may be missing that were made while nobody could tell it.
                self._seen[partition] = {}
                self._waiting[partition] = self._clock.now()

    def lost(self, partitions: Iterable[int], *, late: float = 0.0) -> None:
        """Changes may be missed, and that for so many seconds."""
        now = self._clock.now() - late
        for partition in partitions:
            if self._footings[partition] is not None:
                self._footings[partition] = None
                self._seen[partition] = {}
                self._waiting[partition] = now

    def doubt(self, partitions: Iterable[int]) -> None:
        """Redis refused to hear of a change in partitions, though it is heard itself: it may be out of date for everybody."""
        now = self._clock.now()
        for partition in partitions:
            self._seen[partition] = {}
            self._waiting.setdefault(partition, now)

    def marked(self, partition: int, mark: Watermark) -> bool:
        """A mark was read from the node of the partition's footing, see `rests`; returns whether that ended a doubt."""
        seen = self._seen.get(partition)
        if seen is None or self._footings[partition] is None:
            return False
        numbers = seen.setdefault(mark.by, set())
        numbers.add(mark.number)
        if len(numbers) < MARKS:
            return False
        del self._seen[partition], self._waiting[partition]
        self._opened.discard(partition)
        return True

    @property
    def is_ending(self) -> bool:
        """Whether marks that come now end a doubt that PostgreSQL answers for."""
        return any(self._footings[partition] is not None and partition not in self._opened for partition in self._seen)

    def waits(self, partition: int) -> float:
        """Returns for how many seconds PostgreSQL has been answering instead."""
        since = self._waiting.get(partition)
        return 0.0 if since is None else self._clock.now() - since

    def open(self, partition: int, *, is_open: bool) -> None:
        """Lets a partition be read as it is, or no more: its replies say stale."""
        (self._opened.add if is_open else self._opened.discard)(partition)

    # What reads rest on

    def footing(self, partition: int) -> Footing | None:
        """Returns what a look at the node of a partition rests on now, be the partition in doubt or not; None for nothing."""
        if self._freshness_lease.clock() >= self._freshness_lease.until:
            self._freshness_lease.check()
        footing = self._footings[partition]
        return footing if footing is not None and self._holder(partition) == footing.address else None

    def footings(self, ids: Iterable[str]) -> dict[str, Footing | None]:
        """Returns what reads of those ids rest on that may be read from Redis; None for those that are read all the same."""
        found: dict[str, Footing | None] = {}
        for id in ids:
            partition = partition_of(id)
            footing = self.footing(partition)
            if footing is not None and partition not in self._seen:
                found[id] = footing
            elif partition in self._opened:
                found[id] = None
        return found

    def rests(self, id: str, footing: Footing | None) -> bool:
        """Whether what was read of an id counts; `footing` is what that rested on when it was sent."""
        partition = partition_of(id)
        now = self.footing(partition)
        if footing is None:
            return partition in self._opened
        return now is footing and partition not in self._seen


class QuarantinedL2(RedisL2):
    """An L2 that finds nothing where its quarantine stands. What is read from PostgreSQL meanwhile is filled in as ever."""

    def __init__(self, connection: RedisClient, names: KeyNames, quarantine: Quarantine) -> None:
        super().__init__(connection, names)
        self._quarantine = quarantine

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes leases for what is not there; where the quarantine stands there is nothing, and no lease either."""
        footings = self._quarantine.footings(ids)
        return self._counted(footings, await super().read_leased(dataset, list(footings))) if footings else Leased({}, {})

    async def slide(self, dataset: str, ids: Sequence[str], times: Times, histories: Mapping[str, str] | None = None) -> Leased:
        """Reads, and puts off the expiry of what is not over yet; where the quarantine stands as in `read_leased`."""
        footings = self._quarantine.footings(ids)
        if not footings:
            return Leased({}, {})
        histories = {id: footing.history for id, footing in footings.items() if footing is not None}
        return self._counted(footings, await super().slide(dataset, list(footings), times, histories))

    def _counted(self, footings: Mapping[str, Footing | None], found: Leased) -> Leased:
        """Returns what was found where the footing is still the one that it was."""
        doubtful = [id for id, footing in footings.items() if not self._quarantine.rests(id, footing)]
        if not doubtful:
            return found
        records, leases = dict(found.records), dict(found.leases)
        for id in doubtful:
            records.pop(id, None)
            leases.pop(id, None)
        return Leased(records, leases, [id for id in found.elsewhere if id not in doubtful])

    async def read_quarantined(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns what Redis holds in quarantined partitions: for a caller that has nothing better, and marks it stale."""
        doubted = set(ids).difference(self._quarantine.footings(ids))
        return await self.read(dataset, list(doubted)) if doubted else {}

    def history(self, id: str) -> str:
        """Returns the history of the node that an id is held by; nothing when that is not known."""
        footing = self._quarantine.footing(partition_of(id))
        return "" if footing is None else footing.history

    def footing(self, ids: Iterable[str]) -> Sequence[object]:
        """Returns what a change of those ids rests on; None among it where that is nothing."""
        return [self._quarantine.footing(partition_of(id)) for id in ids]
