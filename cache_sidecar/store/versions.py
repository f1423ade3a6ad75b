"""The versions of rows, without the rows; for whoever compares caches with PostgreSQL. SQL only."""

from collections.abc import Sequence
from typing import NamedTuple

from cache_sidecar.store.pool import Database


class Table(NamedTuple):
    """Where the rows of a dataset are."""

    name: str
    id: str
    "The column that caches know a row by."


async def versions(database: Database, table: Table, ids: Sequence[str]) -> dict[str, int]:
    """Returns the versions of those ids that have a row."""
    rows = await database.fetch(
        f"SELECT {table.id}, version FROM cache_sidecar.{table.name} WHERE {table.id} = ANY(%s)", [list(ids)]
    )
    return dict(rows)
