"""L1 in Rust, behind the same interface: the native engine serves from it without Python."""

from cache_sidecar._native import Memory
from cache_sidecar.tiers.memory import clock
from cache_sidecar.tiers.memory.reuse import L1_ALTERNATIVES, PRESENT, TTLS, Configuration, Figures
from cache_sidecar.tiers.ports import PARTITIONS, Entry, L1Stats, Partition, Record

# Ids in a sample, which take 2 MB, and sampled reads a second, at 0.4 us each: 0.4 % of a core.
MAX_KEYS = 8192
MAX_READS = 10_000


class NativeL1:
    """See `ports.L1`. Evicts what was used least, lately."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        clock.check_bounds(max_bytes, max_entries)
        self.memory = Memory(max_bytes, max_entries, clock.MAX_TOMBSTONES)
        "What the engine serves from."
        # The state that entries refer to. Everything else about partitions is kept in Rust.
        self._partitions = tuple(Partition() for _ in range(PARTITIONS))

    def get(self, id: str) -> Entry | None:
        """Returns the live entry of an id, however old."""
        held = self.memory.get(id)
        if held is None:
            return None
        version, read_at, value, expires_from, partition, cost = held
        return Entry(
            Record(version, read_at, value), expires_from=expires_from, partition=self._partitions[partition], cost=cost
        )

    def generation(self, id: str) -> int:
        """Returns the generation of an id's partition: to be read before a load, and passed to `put`."""
        return self.memory.generation(id)

    def put(self, id: str, record: Record, *, generation: int, expires_from: float) -> bool:
        """Stores, unless something newer is known, the partition is not trusted, or the generation has changed since."""
        return self.memory.put(id, record.version, record.read_at, record.value, generation, expires_from)

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version`, and refuses it from now on; version 0 drops whatever there is."""
        self.memory.drop(id, version)

    def newest(self, id: str) -> int:
        """Returns the highest version that is known of an id, from its entry or an invalidation; 0 if none is."""
        return self.memory.newest(id)

    def retract(self, id: str, version: int, *, newest: int) -> None:
        """PostgreSQL, read after `newest` was known, holds `version`: forgets what claims to be newer, up to `newest`."""
        self.memory.retract(id, version, newest)

    def drop_partition(self, partition: int) -> None:
        """Drops every entry of a partition, and refuses the fills under way."""
        self.memory.drop_partition(partition)

    def clear(self) -> None:
        """Drops every entry, refuses the fills under way, and gives the memory back."""
        self.memory.clear()

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Sets whether every invalidation of a partition is known to arrive."""
        state = self._partitions[partition]
        if state.heard and not trusted:
            state.suspect_since = now
        state.heard = trusted
        state.trusted = trusted and not state.lagging
        self.memory.set_trusted(partition, trusted, now)

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Sets whether the relay publishes a partition's changes too late: then entries are served marked stale."""
        state = self._partitions[partition]
        state.lagging = lagging
        state.trusted = state.heard and not lagging
        self.memory.set_behind(partition, lagging)

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Changes the bounds, and evicts what exceeds them."""
        clock.check_bounds(max_bytes, max_entries)
        self.memory.resize(max_bytes, max_entries)

    def stats(self) -> L1Stats:
        """Returns the counters."""
        stats = self.memory.stats()
        return L1Stats(
            entries=stats.entries,
            bytes=stats.bytes,
            fills=stats.fills,
            refused=stats.refused,
            evictions=stats.evictions,
            hits=stats.hits,
        )


class NativeReuse:
    """The simulation in Rust, which also sees the hits that the engine serves; see `reuse.Reuse`."""

    max_reads = MAX_READS

    def __init__(self, memory: Memory, *, max_keys: int = MAX_KEYS) -> None:
        self._memory = memory
        memory.follow_reuse(L1_ALTERNATIVES, TTLS, TTLS, PRESENT, max_keys)

    def configure(self, configuration: Configuration) -> None:
        """Sets what is configured from now on."""
        self._memory.configure_reuse(*configuration)

    def read(self, id: str, now: float) -> None:
        """Counts a read that Python answers."""
        self._memory.note_read(id, now)

    def change(self, id: str, version: int, now: float) -> None:
        """Notes that an id was changed; `version` 0 is any change. The same version twice is one change."""
        self._memory.note_change(id, version, now)

    def halve(self) -> None:
        """Leaves half of the hashes in the sample."""
        self._memory.halve_reuse()

    def figures(self) -> Figures:
        """Returns the estimates."""
        found = self._memory.reuse()
        return Figures(
            found.reads,
            found.hits,
            found.refreshes,
            found.outdated,
            found.loads,
            keys=found.keys,
            rate=found.rate,
            sampled=found.sampled,
        )
