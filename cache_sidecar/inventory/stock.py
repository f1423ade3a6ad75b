"""What caches keep of stock, and how the stock of a product is put together from it.

The stock of a product is one row of PostgreSQL, or several. Each row is cached by itself, as it has a version of its own; a
product's stock is their sum. What is read of the rows may be a moment apart, so the sum is exact when nothing changes, and
else between what it was and what it is.

That is true of rows that belong together: as many as bucket 0 says, and all of one epoch, which begins each time a stock is
set. Any of them may be missing in Redis, or be told late, and a sum of what is left would be no stock the product ever had.
So where rows don't belong together, all of them are read from PostgreSQL, by one statement.

The version of a stock is that of its epoch plus the steps of its rows: see migrations/catalog/0007.
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
    "Rows of the product; what its first row says counts."
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


class Bucket(NamedTuple):
    """One row, as a cache or PostgreSQL tells it."""

    id: str
    stock: BucketRecord
    version: int


class ProductStock(NamedTuple):
    """The stock of a product."""

    parts: Sequence[Bucket]
    "Its rows; empty when it has no stock."
    answers: Sequence[Answer]
    "Where they come from."
    least_version: int = 0
    "What the version is at least, of a stock that is gone."

    @property
    def available(self) -> int:
        """Pieces that can be reserved."""
        return sum(part.stock.available for part in self.parts)

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
        """Grows with every change of the stock; without any, as far as the deletion is known."""
        if not self.parts:
            return max(self.least_version, *(answer.version * VERSIONS_PER_EPOCH for answer in self.answers))
        return version_of(self.parts)

    @property
    def source(self) -> Source:
        """The furthest tier it was read from."""
        return max(answer.source for answer in self.answers)

    @property
    def stale(self) -> bool:
        """Whether any of it may be older than the policy's bound."""
        return any(answer.stale for answer in self.answers)


def version_of(parts: Sequence[Bucket]) -> int:
    """Returns the version of a stock, given all of its rows."""
    return parts[0].stock.epoch * VERSIONS_PER_EPOCH + sum(part.stock.steps for part in parts)


def belong_together(parts: Sequence[Bucket]) -> bool:
    """Whether rows, bucket 0 first, are all that a product has, and of one epoch: whether their sum is its stock."""
    first = parts[0].stock
    return len(parts) == first.buckets and all(part.stock.epoch == first.epoch for part in parts)


class StockReader:
    """Reads the stock of products through the tiers."""

    def __init__(self, rows: Dataset, *, row_ids: Callable[[str, int], Sequence[str]], load_whole: Load) -> None:
        """`row_ids` names the rows of a product with so many buckets, the product's own id first.

        `load_whole` reads all rows of products, by the rows' ids, in one statement.
        """
        self._rows = rows
        self._row_ids = row_ids
        self._load_whole = load_whole
        self._whole: Batch[ProductStock] = Batch(
            self._read_whole, max_ids=MAX_WHOLE, max_running=WHOLE_RUNNING, max_waiting=MAX_WAITING
        )

    async def get(self, product_id: str, wanted: Freshness = ANY) -> ProductStock:
        """Returns the stock of a product; errors as of `Dataset.get`."""
        total = (await self.get_many([product_id], wanted)).get(product_id)
        if total is None:
            raise DataLoss("inventory", product_id)
        return total

    async def get_many(self, product_ids: Iterable[str], wanted: Freshness = ANY) -> dict[str, ProductStock]:
        """Returns the stock of each product, whole; none of one with a row that cannot be read. Errors as of `Dataset.get`."""
        firsts = await self._rows.get_many(product_ids, wanted)
        totals: dict[str, ProductStock] = {}
        spread: dict[str, Sequence[str]] = {}
        apart: list[str] = []
        for product_id, answer in firsts.items():
            total = _total([(product_id, answer)])
            if total is not None and (not total.parts or belong_together(total.parts)):
                totals[product_id] = total
            elif total is None or wanted.bypass:
                apart.append(product_id)
            else:
                spread[product_id] = self._row_ids(product_id, total.buckets)
        if spread:
            others = await self._rows.get_many([id for ids in spread.values() for id in ids[1:]], wanted) | firsts
            for product_id, ids in spread.items():
                total = _total([(id, others[id]) for id in ids]) if all(id in others for id in ids) else None
                if total is not None and belong_together(total.parts):
                    totals[product_id] = total
                else:
                    apart.append(product_id)
        return totals | await self._from_store(apart, wanted) if apart else totals

    async def _from_store(self, product_ids: Sequence[str], wanted: Freshness) -> dict[str, ProductStock]:
        """Reads all rows of products at one moment. No load under way is joined: it may be older than what was read here."""
        try:
            return await self._whole.get(product_ids, fresh=True, until=wanted.in_time)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _read_whole(self, product_ids: Sequence[str]) -> dict[str, ProductStock]:
        rows = await self._rows.read_together(partial(self._load_whole, product_ids))
        totals = {}
        for product_id in product_ids:
            total = _total([(product_id, rows.get(product_id, _NOTHING))])
            if total is not None and total.parts:
                total = _total([(id, rows[id]) for id in self._row_ids(product_id, total.buckets) if id in rows])
            if total is not None:
                totals[product_id] = total
        return totals

    async def close(self) -> None:
        """Waits for the reads under way."""
        await self._whole.close()


def _total(rows: Sequence[tuple[str, Answer | None]]) -> ProductStock | None:
    """Returns what rows come to, without those that there are none of; None when one cannot be read."""
    parts, answers = [], []
    for id, answer in rows:
        if answer is None:
            return None
        answers.append(answer)
        if answer.value is not None:
            stock = BucketRecord.unpack(answer.value)
            if stock is None:
                return None
            parts.append(Bucket(id, stock, answer.version))
    return ProductStock(parts, answers)
