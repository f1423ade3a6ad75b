"""The versions of rows, without the rows, for comparing caches with PostgreSQL. SQL only."""

from collections.abc import Sequence
from typing import NamedTuple

from cache_sidecar.store.database import Database


class Table(NamedTuple):
    """The table of a dataset."""

    name: str
    id: str
    "The column with the ids that caches use."


async def versions(database: Database, table: Table, ids: Sequence[str]) -> dict[str, int]:
    """Returns the versions of the ids that have a row."""
    rows = await database.fetch(
        f"SELECT {table.id}, version FROM cache_sidecar.{table.name} WHERE {table.id} = ANY(%s)", [list(ids)]
    )
    return dict(rows)
