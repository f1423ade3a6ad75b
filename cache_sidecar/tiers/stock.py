"""What caches keep of stock, and how the stock of a product is put together from it.

The stock of a product is one row of PostgreSQL, or several. Each row is cached by itself, as it has a version of its own; a
product's stock is their sum. What is read of the rows may be a moment apart, so the sum is exact when nothing changes, and
else between what it was and what it is.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

from cache_sidecar.errors import DataLoss
from cache_sidecar.tiers.dataset import Dataset
from cache_sidecar.tiers.ports import ANY, Answer, Freshness, Source

# layout, available, reserved, buckets, grant_version, update time
_LAYOUT = 1
_PACKED = struct.Struct("<BqqBqq")


class Stock(NamedTuple):
    """What caches keep of a row."""

    available: int
    reserved: int
    buckets: int
    "Rows of the product; what its first row says counts."
    grant_version: int
    "The number of the last reservation that took something."
    update_time: int
    "In microseconds since the epoch."

    def pack(self) -> bytes:
        """Returns it as bytes."""
        return _PACKED.pack(_LAYOUT, *self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Returns what `pack` was called on."""
        _, *fields = _PACKED.unpack(data)
        return cls(*fields)


class Part(NamedTuple):
    """One row, as a cache or PostgreSQL tells it."""

    id: str
    stock: Stock
    version: int


class Total(NamedTuple):
    """The stock of a product."""

    parts: Sequence[Part]
    "Its rows; empty when it has no stock."
    answers: Sequence[Answer]
    "Where they come from."

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
        """The newest of its rows', or, without any, what is known of that."""
        return max(answer.version for answer in self.answers)

    @property
    def source(self) -> Source:
        """The furthest tier it was read from."""
        return max(answer.source for answer in self.answers)


class Stocks:
    """Reads the stock of products through the tiers."""

    def __init__(self, rows: Dataset, *, row_ids: Callable[[str, int], Sequence[str]]) -> None:
        """`row_ids` names the rows of a product with so many buckets, the product's own id first."""
        self._rows = rows
        self._row_ids = row_ids

    async def get(self, product_id: str, wanted: Freshness = ANY) -> Total:
        """Returns the stock of a product; errors as of `Dataset.get`."""
        total = (await self.get_many([product_id], wanted)).get(product_id)
        if total is None:
            raise DataLoss("inventory", product_id)
        return total

    async def get_many(self, product_ids: Iterable[str], wanted: Freshness = ANY) -> dict[str, Total]:
        """Returns the stock of each product, and leaves out those with rows that cannot be read; errors as of `Dataset.get`."""
        firsts = await self._rows.get_many(product_ids, wanted)
        totals = {product_id: _total(product_id, answer) for product_id, answer in firsts.items()}
        spread = {
            product_id: self._row_ids(product_id, total.buckets)[1:]
            for product_id, total in totals.items()
            if total.buckets > 1
        }
        if spread:
            others = await self._rows.get_many([id for ids in spread.values() for id in ids], wanted)
            for product_id, ids in spread.items():
                if any(id not in others for id in ids):
                    del totals[product_id]  # a part would pass for the whole
                    continue
                totals[product_id] = _sum([totals[product_id], *(_total(id, others[id]) for id in ids)])
        return totals


def _total(id: str, answer: Answer) -> Total:
    parts = [Part(id, Stock.unpack(answer.value), answer.version)] if answer.value is not None else []
    return Total(parts, [answer])


def _sum(totals: Sequence[Total]) -> Total:
    return Total([part for total in totals for part in total.parts], [answer for total in totals for answer in total.answers])
