"""What other sizes and times to live would do to a dataset, simulated on a sample of its ids: the figures of `advise`.

The sample is chosen by a hash of the id, so that all reads of an id are seen, or none (SHARDS with a fixed number of ids:
Waldspurger, Park, Garthwaite, Ahmad, Efficient MRC Construction with SHARDS, FAST 2015). It begins with every id. When it has
more than `max_keys`, those with the highest hashes leave it for good; so does half of the rest while it takes too many reads a
second. Each read in it stands for `1 / rate` reads.

A read's reuse distance is the number of other ids that were read since the last read of the same id, in the sample, times
`1 / rate`. An LRU cache that is as large as the distance has lost the id by then. So one list, sorted by the last read, answers
for every size at once; for every time to live it is the age of what the last load brought, by alternative.

What the simulation leaves out: jitter, values that do not exist (`negative_ttl`), partitions that are dropped as a whole,
entries of very different sizes, and for Redis what other sidecars load. `cache_sidecar/advise` corrects for what was measured.
"""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from zlib import crc32

# Multiples of the present size of L1 and, next, of the present times to live.
SIZES = tuple(2.0**power for power in range(-4, 5))
TTLS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Alternatives of L1: the size and the times change one at a time.
L1_ALTERNATIVES = tuple([(size, 1.0) for size in SIZES] + [(1.0, ttl) for ttl in TTLS if ttl != 1])
PRESENT = L1_ALTERNATIVES.index((1.0, 1.0))
# Ids in a sample, which take 3 MB: a difference of two hit ratios is off by 1.5 points on average, however many ids there are.
MAX_KEYS = 4096
# Sampled reads a second, at 6 us of the event loop each: 0.15 % of it.
MAX_READS = 250
_HASHES = 1 << 32


class Configuration(NamedTuple):
    """What is configured, of which the alternatives are multiples; times in seconds."""

    entries: float = 0.0
    "Entries for which L1 has room; 0 without one."
    soft: float = 0.0
    hard: float = 0.0
    l2_ttl: float = 0.0
    slides: bool = False
    "Whether each use extends the life of a record in Redis."


@dataclass
class Figures:
    """Estimates since the start, for all ids; a list is in the order of its alternatives."""

    reads: float
    hits: list[float]
    "In L1, by `L1_ALTERNATIVES`."
    refreshes: list[float]
    "Behind some of these hits."
    outdated: list[float]
    "Hits that would have been older than the last change if no invalidation had arrived, by `TTLS` of L1."
    loads: list[float]
    "From PostgreSQL, of ids that had been read before, by `TTLS` of Redis, with the present L1."
    keys: int = 0
    "Ids in the sample."
    rate: float = 1.0
    "The share of all ids that it is."
    sampled: int = 0
    "Reads that were in it."


def _no_figures() -> Figures:
    l1, ttls = len(L1_ALTERNATIVES), len(TTLS)
    return Figures(0.0, hits=[0.0] * l1, refreshes=[0.0] * l1, outdated=[0.0] * ttls, loads=[0.0] * ttls)


class Reuse(Protocol):
    """Follows the reads and changes of one dataset. Times are in seconds since the epoch."""

    max_reads: int
    "Sampled reads a second above which half of the sample has to go."

    def configure(self, configuration: Configuration) -> None:
        """Sets what is configured from now on."""
        ...

    def read(self, id: str, now: float) -> None:
        """Counts a read that is answered from caches or through them."""
        ...

    def change(self, id: str, version: int, now: float) -> None:
        """Notes that an id was changed; `version` 0 is any change. The same version twice is one change."""
        ...

    def halve(self) -> None:
        """Leaves half of the hashes in the sample."""
        ...

    def figures(self) -> Figures:
        """Returns the estimates."""
        ...


@dataclass(slots=True)
class _Key:
    read: int
    "When it was last read: the number of the read among those of the sample."
    l1: list[float]
    "When it was last loaded, by alternative, in seconds since the epoch; next, if nothing was invalidated; next, into Redis."
    uninvalidated: list[float]
    l2: list[float]
    version: int = 0
    changed_at: float = -math.inf


@dataclass
class SampledReuse:
    """The simulation in Python: for datasets that are not in memory, and without the native engine (`native/src/reuse.rs`)."""

    max_keys: int = MAX_KEYS
    max_reads: int = MAX_READS
    _threshold: int = _HASHES
    "Hashes below it are in the sample."
    _configuration: Configuration = field(default_factory=Configuration)
    _keys: dict[int, _Key] = field(default_factory=dict)
    _hashes: list[int] = field(default_factory=list)
    "The hashes of `_keys`, sorted."
    _order: list[int] = field(default_factory=list)
    "The `read` of all keys, sorted: how many come after that of a key is its reuse distance."
    _figures: Figures = field(default_factory=_no_figures)

    def configure(self, configuration: Configuration) -> None:
        """See `Reuse`."""
        self._configuration = configuration

    def read(self, id: str, now: float) -> None:
        """See `Reuse`."""
        hash = spatial_hash(id)
        if hash >= self._threshold:
            return
        weight = _HASHES / self._threshold
        figures = self._figures
        figures.reads += weight
        figures.sampled = number = figures.sampled + 1
        key = self._keys.get(hash)
        if key is None:
            self._keys[hash] = _Key(number, [now] * len(L1_ALTERNATIVES), [now] * len(TTLS), [now] * len(TTLS))
            insort(self._hashes, hash)
            self._order.append(number)
            if len(self._keys) > self.max_keys:
                self._lower(self._hashes[-1])
            return
        place = bisect_left(self._order, key.read)
        distance = (len(self._order) - 1 - place) * weight
        del self._order[place]
        self._order.append(number)
        key.read = number
        if self._simulate_l1(key, distance, now, weight):
            self._simulate_l2(key, now, weight)

    def _simulate_l1(self, key: _Key, distance: float, now: float, weight: float) -> bool:
        """Counts what a read finds in L1; returns whether it loads anything from Redis as L1 is now."""
        (entries, soft, hard, _, _), figures, loads = self._configuration, self._figures, False
        for number, (size, ttl) in enumerate(L1_ALTERNATIVES):
            age = now - key.l1[number]
            is_hit = distance < size * entries and age < ttl * hard
            is_refreshed = is_hit and age >= ttl * soft
            figures.hits[number] += weight * is_hit
            figures.refreshes[number] += weight * is_refreshed
            if is_refreshed or not is_hit:
                key.l1[number] = now
                loads = loads or number == PRESENT
        for number, ttl in enumerate(TTLS):
            age = now - key.uninvalidated[number]
            figures.outdated[number] += weight * (age < ttl * hard and key.changed_at >= key.uninvalidated[number])
            if age >= ttl * soft:
                key.uninvalidated[number] = now
        return loads

    def _simulate_l2(self, key: _Key, now: float, weight: float) -> None:
        for number, ttl in enumerate(TTLS):
            is_held = now - key.l2[number] < ttl * self._configuration.l2_ttl
            self._figures.loads[number] += weight * (not is_held)
            if self._configuration.slides or not is_held:
                key.l2[number] = now

    def change(self, id: str, version: int, now: float) -> None:
        """See `Reuse`."""
        key = self._keys.get(spatial_hash(id))
        if key is None or 0 < version <= key.version:
            return
        key.version = max(version, key.version)
        key.changed_at = now
        key.l1 = [-math.inf] * len(L1_ALTERNATIVES)
        # Redis may have got the new value from its writer, or only a mark. To assume a mark makes longer times look no better.
        key.l2 = [-math.inf] * len(TTLS)

    def halve(self) -> None:
        """See `Reuse`."""
        self._lower(self._threshold // 2)

    def _lower(self, threshold: int) -> None:
        self._threshold = max(1, threshold)
        while self._hashes and self._hashes[-1] >= self._threshold:
            key = self._keys.pop(self._hashes.pop())
            del self._order[bisect_left(self._order, key.read)]

    def figures(self) -> Figures:
        """See `Reuse`."""
        self._figures.keys, self._figures.rate = len(self._keys), self._threshold / _HASHES
        return self._figures


def spatial_hash(id: str) -> int:
    """Returns the hash of an id by which samples are chosen: the same in every sidecar, engine and dataset."""
    # The finalizer of MurmurHash3: CRC-32 is linear, so ids that differ in a few digits would be in a sample together.
    crc = crc32(id.encode())
    mixed = ((crc ^ crc >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return mixed ^ mixed >> 16
