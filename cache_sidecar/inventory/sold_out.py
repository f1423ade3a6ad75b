"""The L1 of the inventory: rows that are sold out, for a moment. Only admission uses it; reads never come from memory.

Without it, when everyone wants what is gone, each refusal would ask Redis the same. So a row that was read with nothing left
counts for KEPT seconds, and, as in any L1, only until a newer version of it is announced, or announcements may be missing.
"""

from collections.abc import Callable, Sequence

from cache_sidecar.core.clock import Clock
from cache_sidecar.inventory.stock import Bucket, BucketRecord, belong_together
from cache_sidecar.tiers.memory.clock import ClockL1, NoL1
from cache_sidecar.tiers.ports import L1Stats, Record

# Seconds. This is how long a refusal can be wrong when an announcement is late or lost.
KEPT = 0.02
# Rows, and bytes of them.
MAX_ROWS = 20_000
MAX_BYTES = 16 << 20


class SoldOut(NoL1):
    """Rows of the inventory with nothing left; see `ports.L1`."""

    def __init__(
        self, *, row_ids: Callable[[str, int], Sequence[str]], clock: Clock, in_shadow: Callable[[], bool] = lambda: False
    ) -> None:
        """`row_ids` returns the ids of the rows of a product with so many buckets, bucket 0 first.

        While `in_shadow` returns True, nothing counts as sold out.
        """
        self._rows = ClockL1(max_bytes=MAX_BYTES, max_entries=MAX_ROWS)
        self._row_ids = row_ids
        self._clock = clock
        self._in_shadow = in_shadow

    def parts(self, product_id: str) -> Sequence[Bucket]:
        """Returns all rows of a product if nothing is left in any of them, else an empty sequence."""
        first = self._part(product_id)
        if first is None or self._in_shadow():
            return ()
        parts = [first]
        if first.stock.buckets == 1:
            return parts
        for id in self._row_ids(product_id, first.stock.buckets)[1:]:
            if (part := self._part(id)) is None:
                return ()
            parts.append(part)
        return parts if belong_together(parts) else ()

    def _part(self, id: str) -> Bucket | None:
        entry = self._rows.get(id)
        # A negative age means that the clock was set back: the entry may be of any age.
        if entry is None or not 0 <= self._clock.now() - entry.expires_from < KEPT or not entry.partition.trusted:
            return None
        assert entry.record.value is not None
        stock = BucketRecord.unpack(entry.record.value)
        assert stock is not None, "put stores nothing else"
        return Bucket(id, stock, entry.record.version)

    def generation(self, id: str) -> int:
        """Returns the generation to pass to `put`; to be taken before a load."""
        return self._rows.generation(id)

    def put(self, id: str, record: Record, *, generation: int, expires_from: float) -> bool:  # noqa: ARG002  # its age counts from now
        """Stores a row with nothing left, as of now; see `ports.L1`."""
        stock = None if record.value is None else BucketRecord.unpack(record.value)
        if stock is None or stock.available:
            if self._rows.get(id) is not None:
                self._rows.drop(id, record.version)
            return False
        return self._rows.put(id, record, generation=generation, expires_from=self._clock.now())

    def drop(self, id: str, version: int) -> None:
        """Drops and refuses what is older than `version`; version 0 drops any."""
        self._rows.drop(id, version)

    def newest(self, id: str) -> int:
        """Returns the highest version that is known of a row; 0 if none is."""
        return self._rows.newest(id)

    def retract(self, id: str, version: int, *, newest: int) -> None:
        """Forgets what claims to be newer than PostgreSQL's version, up to `newest`."""
        self._rows.retract(id, version, newest=newest)

    def drop_partition(self, partition: int) -> None:
        """Drops every row of a partition, and refuses the fills in progress."""
        self._rows.drop_partition(partition)

    def clear(self) -> None:
        """Drops every row, refuses the fills in progress, and frees the memory."""
        self._rows.clear()

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Notes whether every change in a partition is known to be announced."""
        self._rows.set_trusted(partition, trusted, now=now)

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Notes whether the relay publishes a partition's changes late: then none of its rows count as sold out."""
        self._rows.set_lagging(partition, lagging)

    def stats(self) -> L1Stats:
        """Returns the counters."""
        return self._rows.stats()
