"""Products in PostgreSQL. SQL only."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from cache_sidecar.core.errors import AlreadyExists, NotFound
from cache_sidecar.store import pages
from cache_sidecar.store.pages import Page
from cache_sidecar.store.pool import Connection, Database
from cache_sidecar.store.values import checked


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
    # PostgreSQL's to set; what stands here is not written.
    create_time: datetime | None = None
    update_time: datetime | None = None
    version: int = 0


_COLUMNS = ", ".join(ProductRow._fields)
_WRITTEN = ProductRow._fields[:11]
_INSERT = f"""INSERT INTO cache_sidecar.products ({", ".join(_WRITTEN)})
    VALUES ({", ".join(["%s"] * len(_WRITTEN))})"""
_UPDATE = f"""UPDATE cache_sidecar.products SET update_time = now(), {", ".join(f"{c} = %s" for c in _WRITTEN[1:])}
    WHERE product_id = %s RETURNING {_COLUMNS}"""
_SELECT = f"SELECT {_COLUMNS} FROM cache_sidecar.products"
# Bytes of a row, see `pages.fetch`.
_SIZE = """200 + octet_length(title) + octet_length(description) + pg_column_size(categories || '{}'::text[])
    + pg_column_size(image_uris || '{}'::text[]) + pg_column_size(attributes || '{}'::jsonb)"""


class ProductStore:
    """Reads and writes products. Methods that take a connection are one step of a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, product_ids: Sequence[str]) -> list[ProductRow]:
        """Returns those of the products that exist, in no order, by one statement."""
        rows = await self._database.fetch(f"{_SELECT} WHERE product_id = ANY(%s)", [list(product_ids)])
        return [ProductRow(*row) for row in rows]

    async def page(self, *, after: str, category: str, limit: int, max_bytes: int) -> Page[ProductRow]:
        """Returns the next products by id, of one category or, if that is empty, of all; see `pages.fetch`."""
        of_category = "AND categories @> ARRAY[%s]" if category else ""
        parameters = [after, category, limit] if category else [after, limit]
        query = f"{_SELECT} WHERE product_id > %s {of_category} ORDER BY product_id LIMIT %s"
        rows, there = await pages.fetch(self._database, query, parameters, size=_SIZE, max_bytes=max_bytes)
        return Page([ProductRow(*row) for row in rows], there)

    async def create(self, connection: Connection, row: ProductRow) -> ProductRow:
        """Inserts a product; its times and version are PostgreSQL's. Raises AlreadyExists."""
        try:
            await connection.execute(_INSERT, _values(row))
        except UniqueViolation:
            raise AlreadyExists("product", row.product_id) from None
        return await self._written(connection, row.product_id)

    async def update(self, connection: Connection, product_id: str, change: Callable[[ProductRow], ProductRow]) -> ProductRow:
        """Locks a product, changes it, and returns it as changed. Raises NotFound, and whatever `change` raises."""
        current = await self._locked(connection, product_id)
        changed = change(current)
        cursor = await connection.execute(_UPDATE, [*_values(changed)[1:], product_id])
        row = _row(await cursor.fetchone())
        return row if row.version > current.version else await self._written(connection, product_id)

    async def delete(self, connection: Connection, product_id: str, check: Callable[[ProductRow], None]) -> int:
        """Deletes a product that passes `check`, and returns the version of its deletion. Raises NotFound."""
        check(await self._locked(connection, product_id))
        await connection.execute("DELETE FROM cache_sidecar.products WHERE product_id = %s", [product_id])
        # Drawn by the trigger that wrote the outbox row, on this connection, just now.
        cursor = await connection.execute("SELECT currval('cache_sidecar.version_seq')")
        (version,) = await cursor.fetchone() or (0,)
        return int(version)

    async def _written(self, connection: Connection, product_id: str) -> ProductRow:
        """Returns a row as it was written: RETURNING through a view over the shop's own table tells an earlier version."""
        cursor = await connection.execute(f"{_SELECT} WHERE product_id = %s", [product_id])
        return _row(await cursor.fetchone())

    async def _locked(self, connection: Connection, product_id: str) -> ProductRow:
        cursor = await connection.execute(f"{_SELECT} WHERE product_id = %s FOR UPDATE", [product_id])
        row = await cursor.fetchone()
        if row is None:
            raise NotFound("product", product_id)
        return checked(ProductRow(*row), "product", product_id)


def _values(row: ProductRow) -> list[object]:
    values: list[object] = list(row[: len(_WRITTEN)])
    values[_WRITTEN.index("attributes")] = Jsonb(row.attributes)
    return values


def _row(returned: tuple[object, ...] | None) -> ProductRow:
    assert returned is not None, "RETURNING gives the row that was written"
    return ProductRow(*returned)  # type: ignore[arg-type]
