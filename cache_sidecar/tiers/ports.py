"""What the tiers exchange, and the interface of each of them."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import NamedTuple, Protocol
from zlib import crc32

from cache_sidecar.core.errors import TierFailed

PARTITIONS = 256
# Seconds that an answer needs to reach its caller.
IN_TIME = 0.02


def partition_of(id: str) -> int:
    """Returns the partition, 0 to 255, of an id: the same in every process and dataset."""
    return crc32(id.encode()) & 0xFF


class Source(IntEnum):
    """The tier that answered a read, nearest first; numbered as in cache.proto."""

    L1 = 1
    L2 = 2
    STORE = 3


class Expiry(NamedTuple):
    """When a record expires that slides, that is, whose life every read extends; moments in seconds since the epoch.

    It expires `l2_ttl` seconds after its last use, by the policy in effect now, not then.
    """

    used: float
    "When it was last used."
    end: float | None = None
    "When the resource itself ends, however much it is used; None if only the cached copy expires."
    stored: float = 0.0
    "The last use that PostgreSQL knows of."
    history: str = ""
    "The history of the node that counted the last use, 8 hexadecimal digits. A node that now has another may have lost uses."

    def until(self, ttl: float) -> float:
        """Returns when it expires, if it is not used again for `ttl` seconds."""
        until = self.used + ttl
        return until if self.end is None else min(until, self.end)


class Record(NamedTuple):
    """What a tier holds of an id."""

    version: int
    "Grows with every change of the id. 0 for `not found`, unless it was deleted, and for a value without a row."
    read_at: float
    "When PostgreSQL was last known to hold this, in seconds since the epoch."
    value: bytes | None
    "The serialized reply; None if there is no such resource."
    expiry: Expiry | None = None
    "None for records that expire at a fixed age."
    degraded: bool = False
    "Whether it was made without something that failed: it answers reads, and no cache keeps it."


class Answer(NamedTuple):
    """A read's result."""

    value: bytes | None
    source: Source
    version: int
    age: float
    stale: bool
    expiry: Expiry | None = None
    "As this read left it, except for `stored`, which is as before."


class Freshness(NamedTuple):
    """What a caller requires of a read."""

    max_age: float | None = None
    "Maximum age, in seconds, of content from a cache."
    bypass: bool = False
    "Read from PostgreSQL, whatever the caches hold."
    until: float | None = None
    "When the caller stops waiting, in the event loop's time."

    def half(self, now: float, *, longest: float = inf) -> float | None:
        """Returns when half of the caller's time is over; None if that is `longest` seconds or more away, or never."""
        if self.until is None:
            return None
        half = max(0.0, self.until - now) / 2
        return now + half if half < longest else None

    @property
    def in_time(self) -> float | None:
        """The latest moment at which a reply still reaches the caller, even if only a stale one."""
        return None if self.until is None else self.until - IN_TIME


ANY = Freshness()


class Partition:
    """The state of one of the 256 partitions of an L1."""

    __slots__ = ("epoch", "generation", "heard", "lagging", "suspect_since", "tombstones", "trusted")

    def __init__(self) -> None:
        self.epoch = 0
        "Incremented when every entry is dropped; entries of an earlier epoch are dead."
        self.generation = 0
        "Incremented when fills that began earlier must not be stored."
        self.heard = False
        "Whether every invalidation is known to arrive."
        self.suspect_since = 0.0
        "When that ended, in seconds since the epoch."
        self.lagging = False
        "Whether the relay publishes changes too late."
        self.trusted = False
        "Whether entries are served without being marked stale: heard, and not lagging."
        self.tombstones: dict[str, int] = {}
        "By id, the version below which nothing must be stored."


class Entry:
    """What an L1 holds of an id."""

    __slots__ = ("cost", "epoch", "expires_from", "partition", "record", "was_read")

    def __init__(self, record: Record, *, expires_from: float, partition: Partition, cost: int) -> None:
        self.record = record
        self.expires_from = expires_from
        "The moment from which soft and hard expiry count: when it was stored, shifted by jitter."
        self.partition = partition
        self.epoch = partition.epoch
        self.cost = cost
        "Size in bytes, with id and overhead."
        self.was_read = False
        "Whether it was read since it was last considered for eviction."


@dataclass(slots=True)
class L1Stats:
    """Counters of an L1; `bytes` counts overhead."""

    entries: int = 0
    bytes: int = 0
    fills: int = 0
    refused: int = 0
    evictions: int = 0
    hits: int = 0
    "Reads that the native engine answered from this memory by itself."


class L1(Protocol):
    """The memory of one dataset. No method waits."""

    def get(self, id: str) -> Entry | None:
        """Returns the live entry of an id, however old."""
        ...

    def generation(self, id: str) -> int:
        """Returns the generation of an id's partition: to be read before a load, and passed to `put`."""
        ...

    def put(self, id: str, record: Record, *, generation: int, expires_from: float) -> bool:
        """Stores, unless something newer is known, the partition is not trusted, or the generation has changed since."""
        ...

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version`, and refuses it from now on; version 0 drops whatever there is."""
        ...

    def newest(self, id: str) -> int:
        """Returns the highest version that is known of an id, from its entry or an invalidation; 0 if none is."""
        ...

    def retract(self, id: str, version: int, *, newest: int) -> None:
        """PostgreSQL, read after `newest` was known, holds `version`: forgets what claims to be newer, up to `newest`."""
        ...

    def drop_partition(self, partition: int) -> None:
        """Drops every entry of a partition, and refuses the fills under way."""
        ...

    def clear(self) -> None:
        """Drops every entry, refuses the fills under way, and gives the memory back."""
        ...

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Sets whether every invalidation of a partition is known to arrive, since `now`, in seconds since the epoch."""
        ...

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Sets whether the relay publishes a partition's changes too late: then entries are served marked stale."""
        ...

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Changes the bounds, and evicts what exceeds them."""
        ...

    def stats(self) -> L1Stats:
        """Returns the counters."""
        ...


class Leased(NamedTuple):
    """What a read of Redis found, and the leases under which the rest may be filled in."""

    records: Mapping[str, Record]
    "The readable records."
    leases: Mapping[str, bytes]
    "For absent ids: each is good for one fill, unless the id is changed or dropped meanwhile."
    elsewhere: Collection[str] = ()
    "Absent ids whose lease another sidecar holds, which is reading them from PostgreSQL."


class Newer(NamedTuple):
    """A version in Redis that PostgreSQL, read after it had been found, does not have."""

    held: int
    "The version in Redis."
    current: int | None
    "PostgreSQL's version; None if it has no such row."


class Published(NamedTuple):
    """The result of publishing changes of many ids."""

    failed: Mapping[int, TierFailed]
    "The partitions in which that failed, each with the reason."
    newer: Mapping[str, int]
    "The ids of which Redis holds a newer version, which it has kept; with that version."


class L2(Protocol):
    """The shared cache. Methods raise TierFailed."""

    @property
    def signs(self) -> bool:
        """Whether records have MACs: then only those are read."""
        ...

    @property
    def unreadable(self) -> Mapping[str, int]:
        """Counts of values found that were no records, by dataset."""
        ...

    @property
    def unsigned(self) -> Mapping[str, int]:
        """Counts of values found whose MAC was missing or wrong, by dataset."""
        ...

    async def read(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns the readable records among the ids."""
        ...

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes exclusive leases on what is absent, unless other sidecars hold them."""
        ...

    async def read_quarantined(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns the readable records that `read_leased` leaves out because they may be out of date."""
        ...

    async def fill(
        self,
        dataset: str,
        records: Mapping[str, Record],
        leases: Mapping[str, bytes],
        *,
        ttl: float,
    ) -> Mapping[str, int]:
        """Stores what was read from PostgreSQL, unless something newer is there, or nothing, not even the lease.

        Returns the ids of which Redis holds a newer version, with that version.
        """
        ...

    async def release(self, dataset: str, leases: Mapping[str, bytes]) -> None:
        """Gives leases back, so that other sidecars need not wait for them to expire."""
        ...

    async def claim(self, dataset: str, id: str, *, ttl: float) -> bool:
        """Tries to acquire a fleet-wide claim for `ttl` seconds; returns whether this sidecar won."""
        ...

    async def extend_ttl(self, dataset: str, *, ttl: float, now: float) -> None:
        """Keeps every record until it is `ttl` seconds old, if it would go earlier; records that slide are left alone."""
        ...

    async def put_if_newer(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> Mapping[str, int]:
        """Writes each record if it is newer, and publishes the invalidation.

        A bare version instead of a record marks what is older as out of date. Returns the ids of which Redis holds a newer
        version, with that version.
        """
        ...

    async def retract(self, dataset: str, newer: Mapping[str, Newer], *, ttl: float) -> None:
        """Replaces versions that PostgreSQL does not have by marks, and has every sidecar drop them."""
        ...

    async def touch(
        self, dataset: str, ids: Sequence[str], times: "Times", histories: Mapping[str, str] | None = None
    ) -> Leased:
        """Reads records that slide, and extends the life of those that have not expired.

        The leases on what is absent only guard fills, they keep no other sidecar from loading. `histories` are those of the
        nodes that hold the ids, and are stored with the use, see `Expiry`.
        """
        ...

    def history(self, id: str) -> str:
        """Returns the history of the node that holds an id, 8 hexadecimal digits; empty if it is not known."""
        ...

    async def drop(self, dataset: str, ids: Sequence[str]) -> None:
        """Removes ids, and has every sidecar drop them."""
        ...

    async def drop_all(self, dataset: str) -> int:
        """Removes a dataset, and has every sidecar drop it; returns how many keys were held."""
        ...

    def footing(self, ids: Iterable[str]) -> Sequence[object]:
        """Returns what a change of each id rests on, None where that is nothing.

        If it is the same before and after a change, the change was published on the nodes from which the ids are read.
        """
        ...


class RelayL2(Protocol):
    """The part of the shared cache that a relay needs."""

    async def invalidate_many(self, dataset: str, versions: Mapping[str, int], *, ttl: float) -> Published:
        """Marks what is older than a version as out of date, and publishes that: few messages for many ids."""
        ...

    async def retract(self, dataset: str, newer: Mapping[str, Newer], *, ttl: float) -> None:
        """Replaces versions that PostgreSQL does not have by marks, and has every sidecar drop them. Raises TierFailed."""
        ...


class Primary(NamedTuple):
    """A primary as a relay found it."""

    address: tuple[str, int]
    history: str | None
    "Its replication id, which changes with a failover or a restart. None if it did not answer."
    partitions: frozenset[int]
    "The partitions it holds."


class Watermark(NamedTuple):
    """What a relay writes into a partition once everything has been published there."""

    moment: float
    "Everything committed before that has been published, in seconds since the epoch."
    by: str
    "Identifies the relay."
    number: int
    "Grows with each pass of that relay."


class RelayWatermarks(Protocol):
    """The watermarks that a relay writes into each partition, and the sidecars of its region read."""

    async def primaries(self) -> Sequence[Primary]:
        """Returns every primary. Raises TierFailed when none answers."""
        ...

    async def write_watermarks(self, roles: Sequence[str], moment: float, primaries: Sequence[Primary]) -> None:
        """Writes into the partitions of primaries that everything committed before a moment has been published there.

        `roles` are those of the databases. A node that refuses is left out.
        """
        ...

    async def read_watermarks(self, roles: Sequence[str], *, shared: bool = False) -> Mapping[str, Mapping[int, Watermark]]:
        """Returns the watermark of each partition, by role, without those that have none or do not answer.

        With `shared`, those that another sidecar may have read just before. Raises TierFailed when none can.
        """
        ...


class Times(NamedTuple):
    """What a read does to a record that slides; moments in seconds since the epoch."""

    now: float
    "The use to be counted."
    expired_before: float
    "A record that was last used at or before this has expired."
    flush_before: float
    "If the last use that PostgreSQL knows of is at or before this, the reader has to write the new one there."
    ttl: float
    "Seconds for which Redis keeps the record from now on: longer than it is served."


class Row(NamedTuple):
    """What PostgreSQL holds of an id, in the form in which caches keep it."""

    version: int
    "0 for a value that was made for an id without a row: a row that appears has a greater one."
    value: bytes | None
    "None if it was deleted."
    expiry: Expiry | None = None
    degraded: bool = False
    "Whether it was made without something that failed: what caches still hold is the better answer, even if it has expired."


class UnreadableRow(NamedTuple):
    """Stands for a row whose content cannot be read."""

    why: str


Load = Callable[[Sequence[str]], Awaitable[Mapping[str, Row | UnreadableRow]]]
"""Reads ids from PostgreSQL, without those that have no row. Raises TierFailed."""


class InvalidationListener(Protocol):
    """What has to know of changes made elsewhere."""

    def on_invalidate(self, id: str, version: int) -> None:
        """An id has a new version; 0 if it is only to be read again."""
        ...

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed."""
        ...

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Starts or ends the trust in what is held of a partition; `late` is for how many seconds that has been so.

        It is trusted while every change in the partition is known to be received.
        """
        ...
