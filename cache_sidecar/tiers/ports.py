"""What the tiers exchange, and what each of them offers."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import NamedTuple, Protocol
from zlib import crc32

from cache_sidecar.core.errors import TierFailed

PARTITIONS = 256
# Seconds that an answer takes to its caller.
IN_TIME = 0.02


def partition_of(id: str) -> int:
    """Returns the partition, 0 to 255, of an id: the same in every process and dataset."""
    return crc32(id.encode()) & 0xFF


class Source(IntEnum):
    """The tier that answered a read, the nearest first; numbered as in cache.proto."""

    L1 = 1
    L2 = 2
    STORE = 3


class Expiry(NamedTuple):
    """What says when a record is over that every read puts off; in seconds since the epoch.

    It is over the policy's `l2_ttl` after its last use: as the policy says now, not as it said then.
    """

    used: float
    "When it was last used."
    end: float | None = None
    "The resource itself is over then, and this at the latest; None when only the cached copy is."
    stored: float = 0.0
    "The use that PostgreSQL knows of."
    history: str = ""
    "The history of the node that counted the last use, 8 hexadecimal digits. Under another one later uses may be lost."

    def until(self, ttl: float) -> float:
        """Returns when it is over, if it is not used again for `ttl` seconds."""
        until = self.used + ttl
        return until if self.end is None else min(until, self.end)


class Record(NamedTuple):
    """What a tier holds of an id."""

    version: int
    "Grows with every change of the id. 0 for `there is none` when nobody deleted it."
    read_at: float
    "When this was last known to be what PostgreSQL holds, in seconds since the epoch."
    value: bytes | None
    "The serialized reply; None when there is none."
    expiry: Expiry | None = None
    "None for what expires by its age."


class Answer(NamedTuple):
    """A read's result."""

    value: bytes | None
    source: Source
    version: int
    age: float
    stale: bool
    expiry: Expiry | None = None
    "As this read left it; but `stored` is what was there before."


class Freshness(NamedTuple):
    """What a caller asks of a read."""

    max_age: float | None = None
    "Content older than this, in seconds, must not come from a cache."
    bypass: bool = False
    "Read from the store, whatever the caches hold."
    until: float | None = None
    "When the caller stops waiting, in the event loop's time."

    def half(self, now: float, *, longest: float = inf) -> float | None:
        """Returns when half of the caller's time is over; None when that takes `longest` seconds, or for ever."""
        if self.until is None:
            return None
        half = max(0.0, self.until - now) / 2
        return now + half if half < longest else None

    @property
    def in_time(self) -> float | None:
        """The moment at which the caller still gets what there is, even if it is stale."""
        return None if self.until is None else self.until - IN_TIME


ANY = Freshness()


class Partition:
    """The state of one of the 256 partitions of an L1."""

    __slots__ = ("behind", "epoch", "generation", "heard", "suspect_since", "tombstones", "trusted")

    def __init__(self) -> None:
        self.epoch = 0
        "Moves when every entry is dropped; entries of an earlier epoch are dead."
        self.generation = 0
        "Moves when fills that began earlier must not be stored."
        self.heard = False
        "Whether every invalidation is known to arrive."
        self.suspect_since = 0.0
        "When that ended, in seconds since the epoch."
        self.behind = False
        "Whether Redis itself is known to be told too late."
        self.trusted = False
        "Whether entries are served without a mark: heard, and not behind."
        self.tombstones: dict[str, int] = {}
        "The version below which an id must not be stored."


class Entry:
    """What an L1 holds of an id."""

    __slots__ = ("cost", "epoch", "partition", "record", "timer", "was_read")

    def __init__(self, record: Record, *, timer: float, partition: Partition, cost: int) -> None:
        self.record = record
        self.timer = timer
        "The moment from which soft and hard expiry count: when it was stored, moved by jitter."
        self.partition = partition
        self.epoch = partition.epoch
        self.cost = cost
        "Bytes it takes, id and overhead included."
        self.was_read = False
        "Whether it was read since its turn to be evicted came last."


@dataclass(slots=True)
class L1Stats:
    """Counters of an L1; `bytes` counts overhead."""

    entries: int = 0
    bytes: int = 0
    fills: int = 0
    refused: int = 0
    evictions: int = 0
    hits: int = 0
    "Reads that were served without asking the port."


class L1(Protocol):
    """Memory of one dataset. Every method returns at once."""

    def get(self, id: str) -> Entry | None:
        """Returns the live entry of an id, however old."""
        ...

    def generation(self, id: str) -> int:
        """Returns what to remember before a load, for `put`."""
        ...

    def put(self, id: str, record: Record, *, generation: int, timer: float) -> bool:
        """Stores, unless something newer is known, the partition is not trusted, or its generation moved since the load."""
        ...

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version` and refuses it from now on; version 0 drops whatever there is."""
        ...

    def drop_partition(self, partition: int) -> None:
        """Drops every entry of a partition, and refuses the fills under way."""
        ...

    def clear(self) -> None:
        """Drops every entry, refuses the fills under way, and gives the memory back."""
        ...

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Says whether every invalidation of a partition is known to arrive."""
        ...

    def set_behind(self, partition: int, behind: bool) -> None:
        """Says whether Redis is told of changes too late: then what is held is served as it is, but marked stale."""
        ...

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Changes the bounds, evicting what is over them."""
        ...

    def stats(self) -> L1Stats:
        """Returns the counters."""
        ...


class Leased(NamedTuple):
    """What a read found, and what allows to fill in what it did not find."""

    records: Mapping[str, Record]
    "The readable records."
    leases: Mapping[str, bytes]
    "For ids of which there is nothing: good for a fill as long as nothing happens to them meanwhile."
    elsewhere: Collection[str] = ()
    "Ids of which there is nothing, and that another sidecar has the lease of: it is reading them from PostgreSQL."


class L2(Protocol):
    """The shared cache. Methods raise TierFailed."""

    @property
    def unreadable(self) -> Mapping[str, int]:
        """Values found that were no records, by dataset."""
        ...

    async def read(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns the readable records among the ids."""
        ...

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes leases for what is not there, unless others have them."""
        ...

    async def read_quarantined(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns the readable records that `read_leased` leaves out, as they may be out of date and nobody knows."""
        ...

    async def fill(
        self,
        dataset: str,
        records: Mapping[str, Record],
        leases: Mapping[str, bytes],
        *,
        ttl: float,
    ) -> None:
        """Stores what was read from PostgreSQL, unless something newer is there, or nothing, not even the lease."""
        ...

    async def release(self, dataset: str, leases: Mapping[str, bytes]) -> None:
        """Gives leases back, so that others need not wait for them to end."""
        ...

    async def claim(self, dataset: str, id: str, *, ttl: float) -> bool:
        """Tries to acquire a fleet-wide claim for `ttl` seconds; returns whether this sidecar won."""
        ...

    async def extend_ttl(self, dataset: str, *, ttl: float, now: float) -> None:
        """Keeps every record until it is so old, if it would go earlier; not those whose expiry every read puts off."""
        ...

    async def change(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> None:
        """Writes each record if it is newer, and publishes the invalidation.

        A bare version instead of a record marks what is older as out of date.
        """
        ...

    async def drop(self, dataset: str, ids: Sequence[str]) -> None:
        """Removes ids, and tells every sidecar to."""
        ...

    async def drop_all(self, dataset: str) -> int:
        """Removes a dataset, and tells every sidecar to; returns how many keys were held."""
        ...

    def footing(self, ids: Iterable[str]) -> Sequence[object]:
        """Returns what a change of those ids rests on; None among it where that is nothing.

        When it is the same before and after the change, the nodes that were told are those where the ids are read.
        """
        ...


class RelayL2(Protocol):
    """The shared cache, as a relay needs it."""

    async def mark(self, dataset: str, versions: Mapping[str, int], *, ttl: float) -> Mapping[int, TierFailed]:
        """Marks what is older than a version as out of date, and tells every sidecar: in few messages, of many ids.

        Returns the partitions that could not be told, each with the reason.
        """
        ...


class Primary(NamedTuple):
    """A primary as a relay's look found it."""

    address: tuple[str, int]
    history: str | None
    "What names its history: another one after a failover, or a restart. None when it does not say."
    partitions: frozenset[int]
    "What it holds."


class Watermark(NamedTuple):
    """What a relay writes into a partition once it was told of everything."""

    moment: float
    "What was committed before that is told, in seconds since the epoch."
    by: str
    "Names the relay."
    number: int
    "Grows with its looks."


class RelayWatermarks(Protocol):
    """What a relay and the sidecars of its region tell each other through Redis, in each partition of its own."""

    async def primaries(self) -> Sequence[Primary]:
        """Looks at every primary. Raises TierFailed when none answers."""
        ...

    async def caught_up(self, roles: Sequence[str], moment: float, primaries: Sequence[Primary]) -> None:
        """Says in partitions, on the nodes given, that they were told of what was committed before a moment.

        `roles` are those of the databases. A node that does not take it is left out.
        """
        ...

    async def marks(self, roles: Sequence[str]) -> Mapping[str, Mapping[int, Watermark]]:
        """Returns the mark of each partition, by role; those without one, or that cannot be asked, are left out.

        Raises TierFailed when none can.
        """
        ...


class SlidingL2(L2, Protocol):
    """The shared cache, for records whose expiry every read puts off. Methods raise TierFailed."""

    async def slide(
        self, dataset: str, ids: Sequence[str], times: "Times", histories: Mapping[str, str] | None = None
    ) -> Leased:
        """Reads, and puts off the expiry of what is not over yet.

        `histories` are those of the nodes that hold the ids, which are kept beside the use, see `Expiry`.
        """
        ...

    def history(self, id: str) -> str:
        """Returns what names the history of the node that holds an id, 8 hexadecimal digits; nothing when it is not known."""
        ...


class Times(NamedTuple):
    """What sliding a record does to it; moments in seconds since the epoch."""

    now: float
    "The new use."
    over: float
    "What was not used after this is over."
    overdue: float
    "A use that PostgreSQL knows of and that is not after this is to be brought up to date: the reader is to do it."
    ttl: float
    "Seconds that Redis keeps it from now on; longer than it is served."


class Row(NamedTuple):
    """What PostgreSQL holds of an id, as a cache keeps it."""

    version: int
    value: bytes | None
    "None when it was deleted."
    expiry: Expiry | None = None


class UnreadableRow(NamedTuple):
    """Stands for a row that PostgreSQL holds, with something in it that nobody can be told."""

    why: str


Load = Callable[[Sequence[str]], Awaitable[Mapping[str, Row | UnreadableRow]]]
"""Reads ids from PostgreSQL; those without a row are left out. Raises TierFailed."""


class InvalidationListener(Protocol):
    """Whoever has to know of changes made elsewhere."""

    def changed(self, id: str, version: int) -> None:
        """An id has a new version; 0 when it is only to be read again."""
        ...

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed."""
        ...

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Says whether every change in a partition is known to be told, and for how many seconds that has been so."""
        ...
