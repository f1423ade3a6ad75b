"""Products in PostgreSQL. SQL only."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg.errors import UndefinedColumn, UniqueViolation
from psycopg.types.json import Jsonb

from cache_sidecar.core.errors import AlreadyExists, NotFound, ReadOnly
from cache_sidecar.store import pages
from cache_sidecar.store.database import Database
from cache_sidecar.store.pages import Page
from cache_sidecar.store.values import check_readable
from cache_sidecar.store.writes import Transaction


class ProductRow(NamedTuple):
    """A row of cache_sidecar.products."""

    product_id: str
    title: str
    description: str
    price_units: int
    price_nanos: int
    currency_code: str
    categories: Sequence[str]
    brand: str
    image_uris: Sequence[str]
    attributes: dict[str, str]
    active: bool
    rank: float | None = None
    "None also where products are a view without this column."
    # Set by PostgreSQL; values given here are not written.
    create_time: datetime | None = None
    update_time: datetime | None = None
    version: int = 0


class PriceRow(NamedTuple):
    """What a product costs, of cache_sidecar.products."""

    product_id: str
    price_units: int
    price_nanos: int
    currency_code: str
    active: bool
    version: int


# A view need not have this column: where `known` lacks it, the name is that of `absent`, one query further out.
_RANK = (
    "(SELECT found FROM (VALUES (NULL::double precision)) AS absent (rank), "
    "LATERAL (SELECT rank::double precision AS found FROM (SELECT products.*) AS known) AS either) AS rank"
)
_COLUMNS = ", ".join(_RANK if column == "rank" else column for column in ProductRow._fields)
_COLUMNS_WE_SET = ProductRow._fields[:12]
# And so it is not written by products that have no rank.
_COLUMNS_WITHOUT_RANK = ProductRow._fields[:11]
_SELECT = f"SELECT {_COLUMNS} FROM cache_sidecar.products"
_SELECT_PRICES = f"SELECT {', '.join(PriceRow._fields)} FROM cache_sidecar.products WHERE product_id = ANY(%s)"
# Bytes of a row, see `pages.fetch`.
_SIZE = """200 + octet_length(title) + octet_length(description) + pg_column_size(categories || '{}'::text[])
    + pg_column_size(image_uris || '{}'::text[]) + pg_column_size(attributes || '{}'::jsonb)"""


class ProductStore:
    """Reads and writes products. Methods that take a Transaction are one step of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, product_ids: Sequence[str]) -> list[ProductRow]:
        """Returns the products that exist, in no particular order, by one statement."""
        rows = await self._database.fetch(f"{_SELECT} WHERE product_id = ANY(%s)", [list(product_ids)])
        return [ProductRow(*row) for row in rows]

    async def prices(self, product_ids: Sequence[str]) -> list[PriceRow]:
        """Returns what the products that exist cost now."""
        return [PriceRow(*row) for row in await self._database.fetch(_SELECT_PRICES, [list(product_ids)])]

    async def prices_within(self, tx: Transaction, product_ids: Sequence[str]) -> list[PriceRow]:
        """As `prices`, as a step of a write of something else in the same database."""
        cursor = await tx.execute(_SELECT_PRICES, [list(product_ids)])
        return [PriceRow(*row) for row in await cursor.fetchall()]

    async def page(self, *, after: str, category: str, limit: int, max_bytes: int) -> Page[ProductRow]:
        """Returns products in the order of their ids, of one category or, if that is empty, of all; see `pages.fetch`."""
        of_category = "AND categories @> ARRAY[%s]" if category else ""
        parameters = [after, category, limit] if category else [after, limit]
        query = f"{_SELECT} WHERE product_id > %s {of_category} ORDER BY product_id LIMIT %s"
        rows, there = await pages.fetch(self._database, query, parameters, size=_SIZE, max_bytes=max_bytes)
        return Page([ProductRow(*row) for row in rows], there)

    async def create(self, tx: Transaction, row: ProductRow) -> ProductRow:
        """Inserts a product; its times and version are PostgreSQL's. Raises AlreadyExists, and ReadOnly for its rank."""
        columns = _COLUMNS_WITHOUT_RANK if row.rank is None else _COLUMNS_WE_SET
        values = ", ".join(["%s"] * len(columns))
        insert = f"INSERT INTO cache_sidecar.products ({', '.join(columns)}) VALUES ({values})"
        try:
            await tx.execute(insert, _values(row, columns))
        except UniqueViolation:
            raise AlreadyExists("product", row.product_id) from None
        except UndefinedColumn as error:
            raise _no_rank(row, error) from None
        return await self._reread(tx, row.product_id)

    async def lock(self, tx: Transaction, product_id: str) -> ProductRow:
        """Locks a product, and returns it. Raises NotFound, and DataLoss for one that cannot be read."""
        cursor = await tx.execute(f"{_SELECT} WHERE product_id = %s FOR UPDATE", [product_id])
        row = await cursor.fetchone()
        if row is None:
            raise NotFound("product", product_id)
        return check_readable(ProductRow(*row), "product", product_id)

    async def save(self, tx: Transaction, locked: ProductRow, row: ProductRow) -> ProductRow:
        """Saves a product as it is to be, given how it was locked; returns it with its new times and version.

        Raises ReadOnly for its rank.
        """
        columns = (_COLUMNS_WITHOUT_RANK if row.rank == locked.rank else _COLUMNS_WE_SET)[1:]
        changes = ", ".join(f"{column} = %s" for column in columns)
        update = f"""UPDATE cache_sidecar.products SET update_time = now(), {changes}
            WHERE product_id = %s RETURNING {_COLUMNS}"""
        try:
            cursor = await tx.execute(update, [*_values(row, columns), locked.product_id])
        except UndefinedColumn as error:
            raise _no_rank(row, error) from None
        saved = _row(await cursor.fetchone())
        return saved if saved.version > locked.version else await self._reread(tx, locked.product_id)

    async def delete(self, tx: Transaction, product_id: str) -> int:
        """Deletes a product that is locked, and returns the version of its deletion."""
        await tx.execute("DELETE FROM cache_sidecar.products WHERE product_id = %s", [product_id])
        # Drawn by the trigger that wrote the outbox row, on this connection, just now.
        cursor = await tx.execute("SELECT currval('cache_sidecar.version_seq')")
        (version,) = await cursor.fetchone() or (0,)
        return int(version)

    async def _reread(self, tx: Transaction, product_id: str) -> ProductRow:
        """Returns a row as it was written: through a view over the shop's own table, RETURNING has the version from before."""
        cursor = await tx.execute(f"{_SELECT} WHERE product_id = %s", [product_id])
        return _row(await cursor.fetchone())


def _values(row: ProductRow, columns: Sequence[str]) -> list[object]:
    return [Jsonb(row.attributes) if column == "attributes" else getattr(row, column) for column in columns]


def _no_rank(row: ProductRow, error: UndefinedColumn) -> Exception:
    """Returns what to raise for a column that is not there: a view need not have `rank`, but every other one."""
    return error if row.rank is None else ReadOnly(str(error).splitlines()[0])


def _row(returned: tuple[object, ...] | None) -> ProductRow:
    assert returned is not None, "RETURNING gives the row that was written"
    return ProductRow(*returned)  # type: ignore[arg-type]
