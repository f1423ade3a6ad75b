"""Bypasses Redis for partitions that went through an outage until the relay has replayed the missed invalidations.

What a partition of Redis holds is known to be up to date while its changes are received from the node that holds it: from the
beginning of a good heartbeat for `subscriber.staleness_bound` seconds, see `freshness_lease.py`. That is the footing of a read.
It has to be there before the read and, the same one, after it: a read sent to a primary that hangs may be answered when that
primary wakes up, long after another has taken its place, and so may one that an old slot map sent there.

Writes go on while a primary is down: PostgreSQL commits them, and the relay publishes them later. So the primary that answers
again, or the replica that was promoted and may have lost more, holds values that are out of date, and no version shows it. The
relay's watermarks do. The relay writes one into each partition, on the very node that it inspected before, once everything has
been published there. The passes of one relay follow each other, so of three different watermarks read from a node since its
footing began, the pass of the last one began after the first one was read. No two clocks are compared for that. Until then the
partition is in doubt, and PostgreSQL answers; without a relay, until `Region` has marked the replies stale.

Every partition starts in doubt: a sidecar that starts does not know whether a primary has just been replaced, and may have its
slot map from an old primary that woke up a moment ago.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.core.clock import Clock
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.ports import PARTITIONS, Leased, Record, Times, Watermark, partition_of
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import NO_CHECKS, RedisL2
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.node import Address

# Different watermarks of one relay that end a doubt.
MARKS = 3
# Characters of a replication id that identify a history.
HISTORY = 8


class Footing(NamedTuple):
    """What reads of a partition rest on. Compared by identity: one that was lost and regained is another."""

    address: Address
    "The node from which the partition's changes are received."
    history: str
    "The history of that node: the beginning of its replication id."


class Quarantine:
    """The footing of each partition, and which are in doubt, for the datasets of one database."""

    def __init__(self, *, freshness_lease: FreshnessLease, holder: Callable[[int], Address | None], clock: Clock) -> None:
        """`holder` returns the node to which a read of a partition would be sent."""
        self._freshness_lease = freshness_lease
        self._holder = holder
        self._clock = clock
        self._footings: list[Footing | None] = [None] * PARTITIONS
        self._waiting = dict.fromkeys(range(PARTITIONS), clock.now())
        "Since when a partition has been without footing, or in doubt, in seconds since the epoch."
        self._seen: dict[int, dict[str, set[int]]] = {partition: {} for partition in range(PARTITIONS)}
        "The partitions in doubt, each with the watermarks read since its footing began, by relay."
        self._opened: set[int] = set()
        "The partitions that may be read although they are in doubt, because replies say stale."

    # What feeds, writers and the relay report

    def on_feed_trusted(self, partitions: Iterable[int], address: Address, history: str) -> None:
        """From now on, every change in partitions is received from a node with a history."""
        for partition in partitions:
            self._footings[partition] = Footing(address, history[:HISTORY])
            self._waiting.pop(partition, None)
            if partition in self._seen:
                # Changes that were committed during the outage may be missing, and watermarks from before do not cover them.
                self._seen[partition] = {}
                self._waiting[partition] = self._clock.now()

    def on_feed_lost(self, partitions: Iterable[int], *, late: float = 0.0) -> None:
        """Changes in partitions may have been missed for `late` seconds."""
        now = self._clock.now() - late
        for partition in partitions:
            if self._footings[partition] is not None:
                self._footings[partition] = None
                self._seen[partition] = {}
                self._waiting[partition] = now

    def doubt(self, partitions: Iterable[int]) -> None:
        """Puts partitions in doubt in which Redis refused to publish: they lack a change, although the feed is fine."""
        now = self._clock.now()
        for partition in partitions:
            self._seen[partition] = {}
            self._waiting.setdefault(partition, now)

    def on_watermark(self, partition: int, watermark: Watermark) -> bool:
        """A watermark was read from the node of the partition's footing; returns whether that ended a doubt."""
        seen = self._seen.get(partition)
        if seen is None or self._footings[partition] is None:
            return False
        numbers = seen.setdefault(watermark.by, set())
        numbers.add(watermark.number)
        if len(numbers) < MARKS:
            return False
        del self._seen[partition], self._waiting[partition]
        self._opened.discard(partition)
        return True

    @property
    def is_doubting(self) -> bool:
        """Whether a partition is in doubt."""
        return bool(self._seen)

    @property
    def is_waiting(self) -> bool:
        """Whether PostgreSQL answers for a partition."""
        return bool(self._waiting)

    @property
    def is_ending(self) -> bool:
        """Whether watermarks that are read now can end a doubt for which PostgreSQL has to answer."""
        return any(self._footings[partition] is not None and partition not in self._opened for partition in self._seen)

    def waits(self, partition: int) -> float:
        """Returns for how many seconds PostgreSQL has been answering for a partition."""
        since = self._waiting.get(partition)
        return 0.0 if since is None else self._clock.now() - since

    def open(self, partition: int, *, is_open: bool) -> None:
        """Lets a partition in doubt be read, because its replies say stale; or no longer."""
        (self._opened.add if is_open else self._opened.discard)(partition)

    # What reads rest on

    def footing(self, partition: int) -> Footing | None:
        """Returns what a read of the node of a partition rests on now, in doubt or not; None for nothing."""
        if self._freshness_lease.clock() >= self._freshness_lease.until:
            self._freshness_lease.check()
        footing = self._footings[partition]
        # The slot map may already send reads to a node whose changes are not received yet.
        return footing if footing is not None and self._holder(partition) == footing.address else None

    def footings(self, ids: Iterable[str]) -> dict[str, Footing | None]:
        """Returns the footing of each id that may be read from Redis; None for those that may be read although in doubt."""
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
        """Whether what was read of an id counts; `footing` is what the read rested on when it was sent."""
        partition = partition_of(id)
        now = self.footing(partition)
        if footing is None:
            return partition in self._opened
        return now is footing and partition not in self._seen


class QuarantinedL2(RedisL2):
    """An L2 in which partitions in quarantine are empty. They are filled as ever with what is read from PostgreSQL."""

    def __init__(
        self,
        connection: RedisClient,
        names: KeyNames,
        quarantine: Quarantine,
        *,
        macs: Macs | None = None,
        is_entry: Mapping[str, Callable[[str, bytes], bool]] = NO_CHECKS,
    ) -> None:
        super().__init__(connection, names, macs=macs, is_entry=is_entry)
        self._quarantine = quarantine

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes leases on what is absent; of partitions in quarantine, neither."""
        footings = self._quarantine.footings(ids)
        if not footings:
            return Leased({}, {})
        return self._without_doubtful(footings, await super().read_leased(dataset, list(footings)))

    async def touch(self, dataset: str, ids: Sequence[str], times: Times, histories: Mapping[str, str] | None = None) -> Leased:
        """Reads records that slide; of partitions in quarantine, none."""
        footings = self._quarantine.footings(ids)
        if not footings:
            return Leased({}, {})
        histories = {id: footing.history for id, footing in footings.items() if footing is not None}
        return self._without_doubtful(footings, await super().touch(dataset, list(footings), times, histories))

    def _without_doubtful(self, footings: Mapping[str, Footing | None], found: Leased) -> Leased:
        """Returns what was found, without ids whose footing changed during the read: the reply may be an old primary's."""
        doubtful = [id for id, footing in footings.items() if not self._quarantine.rests(id, footing)]
        if not doubtful:
            return found
        records, leases = dict(found.records), dict(found.leases)
        for id in doubtful:
            records.pop(id, None)
            leases.pop(id, None)
        return Leased(records, leases, [id for id in found.elsewhere if id not in doubtful])

    async def read_quarantined(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns what Redis holds in partitions in quarantine: for callers that have nothing better, and mark it stale."""
        quarantined = set(ids).difference(self._quarantine.footings(ids))
        return await self.read(dataset, list(quarantined)) if quarantined else {}

    def history(self, id: str) -> str:
        """Returns the history of the node that holds an id; empty if it is not known."""
        footing = self._quarantine.footing(partition_of(id))
        return "" if footing is None else footing.history

    def footing(self, ids: Iterable[str]) -> Sequence[object]:
        """Returns what a change of each id rests on, None where that is nothing; compare it before and after the change."""
        return [self._quarantine.footing(partition_of(id)) for id in ids]
