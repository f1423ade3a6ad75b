"""The versions of rows, without the rows; for whoever compares caches with PostgreSQL. SQL only."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.store.pool import Database


class Table(NamedTuple):
    """Where the rows of a dataset are."""

    role: str
    "What its database is to the shop."
    name: str
    id: str
    "The column that caches know a row by."
    is_private: bool
    "Whether ids say something of a customer."


TABLES: Mapping[str, Table] = {
    "product": Table("catalog", "products", "product_id", is_private=False),
    "inventory": Table("catalog", "inventory", "id", is_private=False),
    "session": Table("user", "sessions", "session_hash", is_private=True),
    "cart": Table("user", "carts", "user_id", is_private=True),
}


async def versions(database: Database, table: Table, ids: Sequence[str]) -> dict[str, int]:
    """Returns the versions of those ids that have a row."""
    rows = await database.fetch(
        f"SELECT {table.id}, version FROM cache_sidecar.{table.name} WHERE {table.id} = ANY(%s)", [list(ids)]
    )
    return dict(rows)
