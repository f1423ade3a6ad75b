"""The inventory in PostgreSQL. SQL only; see migrations/catalog/0003, 0006 and 0007.

A product's inventory is one row, or several, its buckets. Caches identify a row by its `id`: the product_id for bucket 0, with
the bucket's number appended for the others.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from cache_sidecar.store.database import Database
from cache_sidecar.store.writes import Transaction

MAX_AVAILABLE = 10**15
MAX_BUCKETS = 64


class InventoryRow(NamedTuple):
    """A row of cache_sidecar.inventory."""

    id: str
    product_id: str
    bucket: int
    buckets: int
    "How many rows the product has; bucket 0's number counts."
    available: int
    reserved: int
    grant_version: int
    "The number of the last reservation that took something."
    update_time: datetime
    version: int
    epoch: int
    "Drawn when the inventory was last set; the same in all rows of a product."
    steps: int
    "What changes of the row since then add to the version of the product's inventory."


def columns(of: str = "") -> str:
    """Returns the columns of an InventoryRow, of a relation or, in parentheses, of a composite value."""
    return ", ".join(f"{of}.{name}" if of else name for name in InventoryRow._fields)


_COLUMNS = columns()


class InventoryStore:
    """Reads and sets the inventory. Methods that take a Transaction are one step of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, ids: Sequence[str]) -> list[InventoryRow]:
        """Returns the rows that exist, in no particular order, by one statement."""
        keys = [split_id(id) for id in ids]
        rows = await self._database.fetch(
            f"""SELECT {columns("present")} FROM unnest(%s::text[], %s::integer[]) AS wanted (product_id, bucket)
                JOIN cache_sidecar.inventory AS present
                ON present.product_id = wanted.product_id AND present.bucket = wanted.bucket""",
            [[product_id for product_id, _ in keys], [bucket for _, bucket in keys]],
        )
        return [InventoryRow(*row) for row in rows]

    async def load_whole(self, product_ids: Sequence[str]) -> list[InventoryRow]:
        """Returns all rows of products, bucket 0 first, by one statement, so that all are of the same moment."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM cache_sidecar.inventory WHERE product_id = ANY(%s) ORDER BY product_id, bucket",
            [list(product_ids)],
        )
        return [InventoryRow(*row) for row in rows]

    async def lock(self, tx: Transaction, product_id: str) -> list[InventoryRow]:
        """Locks the inventory of a product, and returns its rows, bucket 0 first; none when it has no inventory.

        Until the transaction ends, no other changes, inserts or deletes rows of the product, even if there are none now.
        """
        cursor = await tx.execute(f"SELECT {_COLUMNS} FROM cache_sidecar.lock_stock(%s)", [product_id])
        return [InventoryRow(*row) for row in await cursor.fetchall()]

    async def spread(self, tx: Transaction, product_id: str, *, available: int, buckets: int) -> list[InventoryRow]:
        """Spreads `available` evenly over buckets, and returns them; nothing may be reserved in buckets that are removed."""
        cursor = await tx.execute(
            f"SELECT {_COLUMNS} FROM cache_sidecar.set_stock(%s, %s, %s)", [product_id, available, buckets]
        )
        return [InventoryRow(*row) for row in await cursor.fetchall()]

    async def record_adjustment(self, tx: Transaction, product_id: str, *, delta: int, reason: str, request_id: str) -> None:
        """Records why an inventory was adjusted."""
        await tx.execute(
            """INSERT INTO cache_sidecar.inventory_adjustments (product_id, delta, reason, request_id)
               VALUES (%s, %s, %s, %s)""",
            [product_id, delta, reason, request_id],
        )

    async def in_categories(self, categories: Sequence[str], *, after: str, limit: int) -> list[str]:
        """Returns the next products, by id, that have an inventory and are in one of the categories."""
        rows = await self._database.fetch(
            """SELECT product_id FROM cache_sidecar.products
               WHERE categories && %s::text[] AND product_id > %s
                 AND EXISTS (SELECT FROM cache_sidecar.inventory
                             WHERE inventory.product_id = products.product_id AND bucket = 0)
               ORDER BY product_id LIMIT %s""",
            [list(categories), after, limit],
        )
        return [str(product_id) for (product_id,) in rows]

    async def of_categories(self, product_ids: Sequence[str], categories: Sequence[str]) -> set[str]:
        """Returns the products that are in one of the categories."""
        rows = await self._database.fetch(
            "SELECT product_id FROM cache_sidecar.products WHERE product_id = ANY(%s) AND categories && %s::text[]",
            [list(product_ids), list(categories)],
        )
        return {str(product_id) for (product_id,) in rows}


_BUCKET = "\x1f"


def row_ids(product_id: str, buckets: int) -> list[str]:
    """Returns the ids of the rows of a product with so many buckets."""
    return [product_id, *(f"{product_id}{_BUCKET}{bucket}" for bucket in range(1, buckets))]


def possible_rows(id: str) -> list[str]:
    """Returns the ids of all rows that the product of an id may have, or may have had."""
    return row_ids(product_of(id), MAX_BUCKETS)


def every_row(product_id: str) -> str:
    """Returns the id that stands for all rows that a product has or had; no row has it."""
    return f"{product_id}{_BUCKET}*"


def is_every_row(id: str) -> bool:
    """Whether an id stands for all rows of a product."""
    return id.endswith(f"{_BUCKET}*")


def split_id(id: str) -> tuple[str, int]:
    """Returns product_id and bucket of a row's id."""
    product_id, _, bucket = id.partition(_BUCKET)
    return product_id, int(bucket) if bucket.isdecimal() else 0


def product_of(id: str) -> str:
    """Returns the product_id of a row's id."""
    return split_id(id)[0]
