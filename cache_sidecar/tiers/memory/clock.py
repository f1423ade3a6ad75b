"""L1: the sidecar's own memory, bounded by real bytes and by entries; what was not read for long goes first."""

import sys
from operator import attrgetter

from cachetools import FIFOCache

from cache_sidecar.tiers.ports import PARTITIONS, Entry, L1Stats, Partition, Record, partition_of

# Bytes of an entry beside its id and value: the Entry, its Record, numbers, and its places in the three dicts of FIFOCache.
# tests/unit/test_l1.py compares it with what the allocator says.
ENTRY_OVERHEAD = 430
# Tombstones outlive the fills they guard against: past this many in a partition all of them are forgotten, at the price
# of refusing the fills under way.
MAX_TOMBSTONES = 64
# Entries that are spared at one eviction because they were read: all of them may have been.
MAX_CHANCES = 32


class _Entries(FIFOCache[str, Entry]):
    """Pushes out the oldest entry that was not read since its turn came last: CLOCK (Corbató, 1968).

    A read sets a flag, where an LRU moves its entry: a fifth of the time, and at least its hits.
    """

    evictions = 0

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
    """The L1 that needs no compiler; see `ports.L1`."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        check_bounds(max_bytes, max_entries)
        self._partitions = tuple(Partition() for _ in range(PARTITIONS))
        self._entries = _Entries(max_bytes, getsizeof=attrgetter("cost"))
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
        """Returns what to remember before a load, for `put`."""
        return self._partitions[partition_of(id)].generation

    def put(self, id: str, record: Record, *, generation: int, timer: float) -> bool:
        """Stores, unless something newer is known, the partition is not trusted, or its generation moved since the load."""
        partition = self._partitions[partition_of(id)]
        if not partition.heard or partition.generation != generation or not self._is_news(id, record, partition):
            self._refused += 1
            return False
        cost = ENTRY_OVERHEAD + sys.getsizeof(id) + (sys.getsizeof(record.value) if record.value is not None else 0)
        if cost > self._entries.maxsize:
            self._entries.pop(id, None)  # what is held is older
            self._refused += 1
            return False
        while len(self._entries) >= self._max_entries and id not in self._entries:
            self._entries.popitem()
        self._entries[id] = Entry(record, timer=timer, partition=partition, cost=cost)
        self._fills += 1
        return True

    def _is_news(self, id: str, record: Record, partition: Partition) -> bool:
        if record.version < partition.tombstones.get(id, 0):
            return False
        held = self.get(id)
        if held is None or held.record.version <= record.version:
            return True
        if record.value is None:
            # PostgreSQL has no such row, yet the entry says it exists: neither is believed, the next read decides.
            del self._entries[id]
        return False

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version` and refuses it from now on; version 0 drops whatever there is."""
        partition = self._partitions[partition_of(id)]
        held = self.get(id)
        if held is not None and (version == 0 or held.record.version < version):
            del self._entries[id]
        if version == 0:
            partition.generation += 1
        else:
            # Also when the entry is new enough: it may be evicted before an older fill arrives.
            self._bury(id, version, partition)

    def _bury(self, id: str, version: int, partition: Partition) -> None:
        if len(partition.tombstones) >= MAX_TOMBSTONES:
            partition.tombstones.clear()
            partition.generation += 1
        partition.tombstones[id] = max(version, partition.tombstones.get(id, 0))

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
        evictions, self._entries = self._entries.evictions, _Entries(self._entries.maxsize, getsizeof=attrgetter("cost"))
        self._entries.evictions = evictions

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Says whether every invalidation of a partition is known to arrive."""
        state = self._partitions[partition]
        if state.heard and not trusted:
            state.suspect_since = now
            state.generation += 1
        state.heard = trusted
        state.trusted = trusted and not state.behind

    def set_behind(self, partition: int, behind: bool) -> None:
        """Says whether Redis is told of changes too late: then what is held is served as it is, but marked stale."""
        state = self._partitions[partition]
        state.behind = behind
        state.trusted = state.heard and not behind

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Changes the bounds, evicting what is over them."""
        check_bounds(max_bytes, max_entries)
        old, self._entries = self._entries, _Entries(max_bytes, getsizeof=attrgetter("cost"))
        self._entries.evictions = old.evictions
        self._max_entries = max_entries
        while old:
            id, entry = FIFOCache.popitem(old)
            if entry.cost <= max_bytes:
                self._entries[id] = entry
        while len(self._entries) > max_entries:
            self._entries.popitem()

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

    def put(self, id: str, record: Record, *, generation: int, timer: float) -> bool:  # noqa: ARG002
        """Stores nothing."""
        return False

    def drop(self, id: str, version: int) -> None:
        """Has nothing to drop."""

    def drop_partition(self, partition: int) -> None:
        """Has nothing to drop."""

    def clear(self) -> None:
        """Has nothing to drop."""

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Has nothing to trust."""

    def set_behind(self, partition: int, behind: bool) -> None:
        """Has nothing to mark."""

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Has no size."""

    def stats(self) -> L1Stats:
        """Returns zeros."""
        return L1Stats()


NO_L1 = NoL1()


def check_bounds(max_bytes: int, max_entries: int) -> None:
    """Raises ValueError for bounds that leave room for nothing."""
    if max_bytes < 1 or max_entries < 1:
        raise ValueError("max_bytes and max_entries must be at least 1")
