"""L1 in Rust: the same port, and the native engine serves from it without Python."""

from cache_sidecar._native import Memory
from cache_sidecar.tiers.memory import clock
from cache_sidecar.tiers.ports import PARTITIONS, Entry, L1Stats, Partition, Record


class NativeL1:
    """See `ports.L1`. What goes first is what was used least, lately."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        clock.check_bounds(max_bytes, max_entries)
        self.memory = Memory(max_bytes, max_entries, clock.MAX_TOMBSTONES)
        "What the engine serves from."
        # What entries are told of their partition; all else about partitions is kept in Rust.
        self._partitions = tuple(Partition() for _ in range(PARTITIONS))

    def get(self, id: str) -> Entry | None:
        """Returns the live entry of an id, however old."""
        held = self.memory.get(id)
        if held is None:
            return None
        version, read_at, value, timer, partition, cost = held
        return Entry(Record(version, read_at, value), timer=timer, partition=self._partitions[partition], cost=cost)

    def generation(self, id: str) -> int:
        """Returns what to remember before a load, for `put`."""
        return self.memory.generation(id)

    def put(self, id: str, record: Record, *, generation: int, timer: float) -> bool:
        """Stores, unless something newer is known, the partition is not trusted, or its generation moved since the load."""
        return self.memory.put(id, record.version, record.read_at, record.value, generation, timer)

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version` and refuses it from now on; version 0 drops whatever there is."""
        self.memory.drop(id, version)

    def drop_partition(self, partition: int) -> None:
        """Drops every entry of a partition, and refuses the fills under way."""
        self.memory.drop_partition(partition)

    def clear(self) -> None:
        """Drops every entry, refuses the fills under way, and gives the memory back."""
        self.memory.clear()

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Says whether every invalidation of a partition is known to arrive."""
        state = self._partitions[partition]
        if state.heard and not trusted:
            state.suspect_since = now
        state.heard = trusted
        state.trusted = trusted and not state.behind
        self.memory.set_trusted(partition, trusted, now)

    def set_behind(self, partition: int, behind: bool) -> None:
        """Says whether Redis is told of changes too late: then what is held is served as it is, but marked stale."""
        state = self._partitions[partition]
        state.behind = behind
        state.trusted = state.heard and not behind
        self.memory.set_behind(partition, behind)

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Changes the bounds, evicting what is over them."""
        clock.check_bounds(max_bytes, max_entries)
        self.memory.resize(max_bytes, max_entries)

    def stats(self) -> L1Stats:
        """Returns the counters."""
        return L1Stats(*self.memory.stats())
