"""The L1 of stock: what is sold out, for a moment. Only the gate looks into it; reads of stock never come from memory.

When everybody wants what is gone, each refusal would ask Redis the same. So a row nothing is left of, once read, is believed
for KEPT seconds, and as in any L1 only until a newer version of it is announced, or announcements may be missing.
"""

from collections.abc import Callable, Sequence

from cache_sidecar.core.clock import Clock
from cache_sidecar.inventory.stock import Bucket, BucketRecord, belong_together
from cache_sidecar.tiers.memory.clock import ClockL1, NoL1
from cache_sidecar.tiers.ports import L1Stats, Record

# Seconds; for as long, an announcement that is late or lost can make a refusal wrong.
KEPT = 0.02
# Rows, and bytes of them.
MAX_ROWS = 20_000
MAX_BYTES = 16 << 20


class SoldOut(NoL1):
    """Rows of the inventory that nothing is left of; see `ports.L1`."""

    def __init__(
        self, *, row_ids: Callable[[str, int], Sequence[str]], clock: Clock, in_shadow: Callable[[], bool] = lambda: False
    ) -> None:
        """`row_ids` names the rows of a product with so many buckets, the product's own id first.

        While it is `in_shadow`, it says nothing.
        """
        self._rows = ClockL1(max_bytes=MAX_BYTES, max_entries=MAX_ROWS)
        self._row_ids = row_ids
        self._clock = clock
        self._in_shadow = in_shadow

    def parts(self, product_id: str) -> Sequence[Bucket]:
        """Returns all rows of a product if nothing is left in any of them, else none."""
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
        # A clock that was set back makes nothing younger.
        if entry is None or not 0 <= self._clock.now() - entry.timer < KEPT or not entry.partition.trusted:
            return None
        assert entry.record.value is not None
        stock = BucketRecord.unpack(entry.record.value)
        assert stock is not None, "put stores nothing else"
        return Bucket(id, stock, entry.record.version)

    def generation(self, id: str) -> int:
        """Returns what to remember before a load, for `put`."""
        return self._rows.generation(id)

    def put(self, id: str, record: Record, *, generation: int, timer: float) -> bool:  # noqa: ARG002  # it has its own
        """Stores a row that nothing is left of, as of now; see `ports.L1`."""
        stock = None if record.value is None else BucketRecord.unpack(record.value)
        if stock is None or stock.available:
            if self._rows.get(id) is not None:
                self._rows.drop(id, record.version)
            return False
        return self._rows.put(id, record, generation=generation, timer=self._clock.now())

    def drop(self, id: str, version: int) -> None:
        """Drops what is older than `version` and refuses it from now on; version 0 drops whatever there is."""
        self._rows.drop(id, version)

    def drop_partition(self, partition: int) -> None:
        """Drops every row of a partition, and refuses the fills under way."""
        self._rows.drop_partition(partition)

    def clear(self) -> None:
        """Drops every row, refuses the fills under way, and gives the memory back."""
        self._rows.clear()

    def set_trusted(self, partition: int, trusted: bool, *, now: float) -> None:
        """Says whether every change in a partition is known to be announced."""
        self._rows.set_trusted(partition, trusted, now=now)

    def set_behind(self, partition: int, behind: bool) -> None:
        """Says whether Redis is told of a partition's changes too late: then nothing of it is known to be sold out."""
        self._rows.set_behind(partition, behind)

    def stats(self) -> L1Stats:
        """Returns the counters."""
        return self._rows.stats()
