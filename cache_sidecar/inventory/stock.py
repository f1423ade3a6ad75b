"""What caches keep of the inventory, and how the inventory of a product is put together from it.

A product's inventory is one row in PostgreSQL, or several, its buckets. Each row has its own version and is cached by itself;
the product's inventory is their sum. The rows may be read a moment apart, so the sum is exact while nothing changes, and
otherwise between what it was and what it is.

That holds only for rows that belong together: as many as bucket 0 says, all of one epoch, which begins each time the inventory
is set. Redis may lose any of them, or get it late, and the sum of the rest would be a number that the product never had. So
when rows do not belong together, all of them are read from PostgreSQL by one statement.

The version of a product's inventory is that of its epoch plus the steps of its rows: see migrations/catalog/0007.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Self

from cache_sidecar.core.errors import DataLoss, DeadlineExceeded
from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import ANY, Answer, Freshness, Load, Source

# layout, available, reserved, buckets, grant_version, update time, epoch, steps
_LAYOUT = 2
_PACKED = struct.Struct("<BqqBqqqq")
# Versions that an epoch has room for, in each change of it: more than any step.
VERSIONS_PER_EPOCH = 10_000
# What a row may say: sums over all rows of a product are numbers that replies can hold, and so are times, in microseconds.
MAX_ROWS = 64
MAX_VERSION = 2**63 - 1
MAX_COUNT = MAX_VERSION // (MAX_ROWS + 1)
MAX_UPDATE_TIME = 253_402_300_799_999_999
# Products in one query that reads all of their rows, queries at once, and products that may wait for one.
MAX_WHOLE = 100
WHOLE_RUNNING = 2
MAX_WAITING = 10_000
_NOTHING = Answer(None, Source.STORE, 0, 0.0, stale=False)


class BucketRecord(NamedTuple):
    """What caches keep of a row."""

    available: int
    reserved: int
    buckets: int
    "How many rows the product has; bucket 0's number counts."
    grant_version: int
    "The number of the last reservation that took something."
    update_time: int
    "In microseconds since 1970."
    epoch: int
    "Drawn when the stock was last set; the same in all rows of a product."
    steps: int
    "What the changes of the row since then add to the version of the stock."

    def pack(self) -> bytes:
        """Returns it as bytes."""
        return _PACKED.pack(_LAYOUT, *self)

    @classmethod
    def unpack(cls, data: bytes) -> Self | None:
        """Returns what `pack` was called on; None for what another version of this program packed."""
        if len(data) != _PACKED.size or data[0] != _LAYOUT:
            return None
        _, *fields = _PACKED.unpack(data)
        return cls(*fields)

    def is_possible(self) -> bool:
        """Whether PostgreSQL can hold this, and replies can say it."""
        counts = self.available, self.reserved, self.grant_version, self.steps, self.epoch * VERSIONS_PER_EPOCH
        return (
            all(0 <= count <= MAX_COUNT for count in counts)
            and 1 <= self.buckets <= MAX_ROWS
            and 0 <= self.update_time <= MAX_UPDATE_TIME
        )


class Bucket(NamedTuple):
    """One row, as read from a cache or from PostgreSQL."""

    id: str
    stock: BucketRecord
    version: int


class ProductStock(NamedTuple):
    """The inventory of a product."""

    parts: Sequence[Bucket]
    "Its rows, bucket 0 first; empty when it has no inventory."
    answers: Sequence[Answer]
    "The reads of the rows; empty for rows that were not read through the tiers."
    least_version: int = 0
    "Lower bound of the version of an inventory that was deleted."

    @property
    def available(self) -> int:
        """Pieces that can be reserved."""
        return sum([part.stock.available for part in self.parts])

    @property
    def reserved(self) -> int:
        """Pieces that reservations hold."""
        return sum(part.stock.reserved for part in self.parts)

    @property
    def buckets(self) -> int:
        """Rows of the product; 1 when it has none."""
        return self.parts[0].stock.buckets if self.parts else 1

    @property
    def version(self) -> int:
        """Grows with every change of the inventory; after its deletion, as far as that is known."""
        if not self.parts:
            versions = (answer.version * VERSIONS_PER_EPOCH for answer in self.answers)
            return min(MAX_VERSION, max(self.least_version, *versions))
        return version_of(self.parts)

    @property
    def source(self) -> Source:
        """The furthest tier it was read from."""
        return max(answer.source for answer in self.answers)

    @property
    def stale(self) -> bool:
        """Whether any row may be older than the policy allows."""
        return any(answer.stale for answer in self.answers)

    def includes(self, parts: Iterable[Bucket]) -> bool:
        """Whether no row is newer in `parts`."""
        versions = {part.id: part.version for part in self.parts}
        return all(versions.get(part.id, 0) >= part.version for part in parts)


def version_of(parts: Sequence[Bucket]) -> int:
    """Returns the version of a product's inventory, given all of its rows."""
    return parts[0].stock.epoch * VERSIONS_PER_EPOCH + sum(part.stock.steps for part in parts)


def belong_together(parts: Sequence[Bucket]) -> bool:
    """Whether rows, bucket 0 first, are all that a product has, and of one epoch: whether their sum is its inventory."""
    first = parts[0].stock
    return len(parts) == first.buckets and all(part.stock.epoch == first.epoch for part in parts)


class StockReader:
    """Reads the inventory of products through the tiers."""

    def __init__(self, rows: Dataset, *, row_ids: Callable[[str, int], Sequence[str]], load_whole: Load) -> None:
        """`row_ids` returns the ids of the rows of a product with so many buckets, bucket 0 first.

        `load_whole` reads all rows of products in one statement; its result is by the ids of the rows.
        """
        self._rows = rows
        self._row_ids = row_ids
        self._load_whole = load_whole
        self._whole: Batch[ProductStock] = Batch(
            self._read_whole, max_ids=MAX_WHOLE, max_running=WHOLE_RUNNING, max_waiting=MAX_WAITING
        )

    async def get(self, product_id: str, wanted: Freshness = ANY) -> ProductStock:
        """Returns the inventory of a product; errors as of `Dataset.get`."""
        stock = (await self.get_many([product_id], wanted)).get(product_id)
        if stock is None:
            raise DataLoss("inventory", product_id)
        return stock

    async def get_many(self, product_ids: Iterable[str], wanted: Freshness = ANY) -> dict[str, ProductStock]:
        """Returns the inventory of each product; leaves out those with a row that cannot be read. Errors as of `Dataset.get`.

        Reads bucket 0, which has the number of buckets; then the others; then, where the rows do not belong together, all of
        them from PostgreSQL.
        """
        firsts = await self._rows.get_many(product_ids, wanted)
        stocks: dict[str, ProductStock] = {}
        several: dict[str, Sequence[str]] = {}
        apart: list[str] = []
        for product_id, answer in firsts.items():
            stock = _assemble([(product_id, answer)])
            if stock is not None and (not stock.parts or belong_together(stock.parts)):
                stocks[product_id] = stock
            elif stock is None or wanted.bypass:
                apart.append(product_id)
            else:
                several[product_id] = self._row_ids(product_id, stock.buckets)
        if several:
            others = await self._rows.get_many([id for ids in several.values() for id in ids[1:]], wanted) | firsts
            for product_id, ids in several.items():
                stock = _assemble([(id, others[id]) for id in ids]) if all(id in others for id in ids) else None
                if stock is not None and belong_together(stock.parts):
                    stocks[product_id] = stock
                else:
                    apart.append(product_id)
        return stocks | await self._get_whole(apart, wanted) if apart else stocks

    async def _get_whole(self, product_ids: Sequence[str], wanted: Freshness) -> dict[str, ProductStock]:
        """Reads all rows of products at one moment. It joins no load in flight: that may be older than what was read here."""
        try:
            return await self._whole.get(product_ids, fresh=True, until=wanted.in_time)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _read_whole(self, product_ids: Sequence[str]) -> dict[str, ProductStock]:
        rows = await self._rows.read_together(partial(self._load_whole, product_ids))
        stocks = {}
        for product_id in product_ids:
            stock = _assemble([(product_id, rows.get(product_id, _NOTHING))])
            if stock is not None and stock.parts:
                stock = _assemble([(id, rows[id]) for id in self._row_ids(product_id, stock.buckets) if id in rows])
            if stock is not None:
                stocks[product_id] = stock
        return stocks

    async def close(self) -> None:
        """Waits for the reads in progress."""
        await self._whole.close()


def _assemble(rows: Sequence[tuple[str, Answer | None]]) -> ProductStock | None:
    """Returns the inventory that rows make up, without those that do not exist; None when one cannot be read."""
    parts, answers = [], []
    for id, answer in rows:
        if answer is None:
            return None
        answers.append(answer)
        if answer.value is not None:
            record = BucketRecord.unpack(answer.value)
            if record is None:
                return None
            parts.append(Bucket(id, record, answer.version))
    return ProductStock(parts, answers)
