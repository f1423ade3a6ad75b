"""L1: the sidecar's own memory, bounded in bytes as allocated and in entries; evicts what was not read for long."""

import math
import sys
from operator import attrgetter

from cachetools import FIFOCache

from cache_sidecar.tiers.ports import PARTITIONS, Entry, L1Stats, Partition, Record, partition_of

# Bytes of an entry besides its id and value: the Entry, its Record, numbers, and its slots in the three dicts of FIFOCache.
# tests/unit/test_l1.py compares this with the allocator.
ENTRY_OVERHEAD = 430
# Tombstones outlive the fills they guard against. When a partition has this many, all are forgotten, and the fills under way
# are refused: one of them might be older than a forgotten tombstone.
MAX_TOMBSTONES = 64
# Entries that one eviction spares because they were read: all of them may have been.
MAX_CHANCES = 32


class _Entries(FIFOCache[str, Entry]):
    """Evicts the oldest entry that was not read since it was last considered: CLOCK (Corbató, 1968).

    A read sets a flag, where an LRU moves its entry: that takes a fifth of the time, and the hit rate is at least as high.
    """

    evictions = 0

    def __init__(self) -> None:
        # The bounds are ClockL1's, which can change them.
        super().__init__(math.inf, getsizeof=attrgetter("cost"))

    def popitem(self) -> tuple[str, Entry]:
        for _ in range(MAX_CHANCES):
            id, entry = super().popitem()
            if not entry.was_read:
                break
            entry.was_read = False
            self[id] = entry
        else:
            id, entry = super().popitem()
        self.evictions += 1
        return id, entry


class ClockL1:
    """The L1 in Python; see `ports.L1`."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        check_bounds(max_bytes, max_entries)
        self._partitions = tuple(Partition() for _ in range(PARTITIONS))
        self._entries = _Entries()
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._fills = 0
        self._refused = 0

    def get(self, id: str) -> Entry | None:
        """Returns the live entry of an id, however old."""
        try:
            entry = self._entries[id]
        except KeyError:
            return None
        if entry.epoch != entry.partition.epoch:
            del self._entries[id]
            return None
        entry.was_read = True
        return entry

    def generation(self, id: str) -> int:
        """Returns the generation of an id's partition: to be read before a load, and passed to `put`."""
        return self._partitions[partition_of(id)].generation

    def put(self, id: str, record: Record, *, generation: int, expires_from: float) -> bool:
        """Stores, unless something newer is known, the partition is not trusted, or the generation has changed since."""
        partition = self._partitions[partition_of(id)]
        # The generation: a load may have read v1 before a drop without a version, which leaves no tombstone to refuse v1. The
        # tombstone: an invalidation of v2 may overtake the reply that carries v1.
        if not partition.heard or partition.generation != generation or not self._is_news(id, record, partition):
            self._refused += 1
            return False
        cost = ENTRY_OVERHEAD + sys.getsizeof(id) + (sys.getsizeof(record.value) if record.value is not None else 0)
        self._entries.pop(id, None)  # it is older, and would be served instead
        if cost > self._max_bytes:
            self._refused += 1
            return False
        self._make_room(cost, 1)
        self._entries[id] = Entry(record, expires_from=expires_from, partition=partition, cost=cost)
        self._fills += 1
        return True

    def _make_room(self, bytes: int, entries: int) -> None:
        while self._entries and (
            self._entries.currsize + bytes > self._max_bytes or len(self._entries) + entries > self._max_entries
        ):
            self._entries.popitem()

    def _is_news(self, id: str, record: Record, partition: Partition) -> bool:
        if record.version < partition.tombstones.get(id, 0):
            return False
        held = self.get(id)
        if held is None or held.record.version <= record.version:
            return True
        if record.value is None:
            # PostgreSQL has no such row, yet the entry says it exists. Either may be the newer: the next read decides.
            del self._entries[id]
        return False

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version`, and refuses it from now on; version 0 drops whatever there is."""
        partition = self._partitions[partition_of(id)]
        held = self.get(id)
        if held is not None and (version == 0 or held.record.version < version):
            del self._entries[id]
        if version == 0:
            partition.generation += 1
        else:
            # Even if the entry is new enough: it may be evicted, and then an older fill still under way would be stored.
            self._bury(id, version, partition)

    def _bury(self, id: str, version: int, partition: Partition) -> None:
        if len(partition.tombstones) >= MAX_TOMBSTONES:
            partition.tombstones.clear()
            partition.generation += 1
        partition.tombstones[id] = max(version, partition.tombstones.get(id, 0))

    def newest(self, id: str) -> int:
        """Returns the highest version that is known of an id, from its entry or an invalidation; 0 if none is."""
        held = self.get(id)
        buried = self._partitions[partition_of(id)].tombstones.get(id, 0)
        return buried if held is None else max(buried, held.record.version)

    def retract(self, id: str, version: int, *, newest: int) -> None:
        """PostgreSQL, read after `newest` was known, holds `version`: forgets what claims to be newer, up to `newest`."""
        # Not beyond `newest`: the row may have changed since PostgreSQL was read, and that change been announced.
        tombstones = self._partitions[partition_of(id)].tombstones
        if version < tombstones.get(id, 0) <= newest:
            tombstones[id] = version
        held = self.get(id)
        if held is not None and version < held.record.version <= newest:
            del self._entries[id]

    def drop_partition(self, partition: int) -> None:
        """Drops every entry of a partition, and refuses the fills under way."""
        state = self._partitions[partition]
        state.epoch += 1
        state.generation += 1
        state.tombstones.clear()

    def clear(self) -> None:
        """Drops every entry, refuses the fills under way, and gives the memory back."""
        for partition in range(PARTITIONS):
            self.drop_partition(partition)
        evictions, self._entries = self._entries.evictions, _Entries()
        self._entries.evictions = evictions

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Sets whether every invalidation of a partition is known to arrive."""
        state = self._partitions[partition]
        if state.heard and not trusted:
            state.suspect_since = now
            # A fill that began before may have missed an invalidation by the time the partition is trusted again.
            state.generation += 1
        state.heard = trusted
        state.trusted = trusted and not state.lagging

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Sets whether the relay publishes a partition's changes too late: then entries are served marked stale."""
        state = self._partitions[partition]
        state.lagging = lagging
        state.trusted = state.heard and not lagging

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Changes the bounds, and evicts what exceeds them."""
        check_bounds(max_bytes, max_entries)
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._make_room(0, 0)

    def stats(self) -> L1Stats:
        """Returns the counters."""
        return L1Stats(
            entries=len(self._entries),
            bytes=int(self._entries.currsize),
            fills=self._fills,
            refused=self._refused,
            evictions=self._entries.evictions,
        )


class NoL1:
    """The L1 of a dataset that is not kept in memory; see `ports.L1`."""

    def get(self, id: str) -> Entry | None:  # noqa: ARG002
        """Returns None."""
        return None

    def generation(self, id: str) -> int:  # noqa: ARG002
        """Returns 0: nothing is ever put."""
        return 0

    def put(self, id: str, record: Record, *, generation: int, expires_from: float) -> bool:  # noqa: ARG002
        """Stores nothing."""
        return False

    def drop(self, id: str, version: int) -> None:
        """Has nothing to drop."""

    def newest(self, id: str) -> int:  # noqa: ARG002
        """Returns 0: nothing is known."""
        return 0

    def retract(self, id: str, version: int, *, newest: int) -> None:
        """Has nothing to forget."""

    def drop_partition(self, partition: int) -> None:
        """Has nothing to drop."""

    def clear(self) -> None:
        """Has nothing to drop."""

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Has nothing to trust."""

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Has nothing to mark."""

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Has no bounds."""

    def stats(self) -> L1Stats:
        """Returns zeros."""
        return L1Stats()


NO_L1 = NoL1()


def check_bounds(max_bytes: int, max_entries: int) -> None:
    """Raises ValueError for bounds that leave room for nothing."""
    if max_bytes < 1 or max_entries < 1:
        raise ValueError("max_bytes and max_entries must be at least 1")
