"""Pages of rows, bounded in bytes as well as in number, so that no listing fetches more than a reply can hold."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from cache_sidecar.store.database import Database

R = TypeVar("R")


class Page(NamedTuple, Generic[R]):
    """The rows of a page."""

    rows: Sequence[R]
    there: int
    "How many rows there are, up to the requested limit; those that were not fetched are for the next page."


async def fetch(
    database: Database, query: str, parameters: Sequence[Any], *, size: str, max_bytes: int
) -> Page[tuple[Any, ...]]:
    """Returns the rows of an ordered and limited query until they have `max_bytes`, which the last one may exceed.

    `size` is an SQL expression for the approximate bytes of a row, uncompressed: `octet_length` of a text is, without
    decompressing it; `pg_column_size` is not, unless something is appended to the value.
    """
    rows = await database.fetch(
        f"""SELECT * FROM (
                SELECT page.*, count(*) OVER () AS there,
                    sum({size}) OVER (ROWS UNBOUNDED PRECEDING) - ({size}) AS bytes_before
                FROM ({query}) AS page) AS measured
            WHERE bytes_before < %s""",
        [*parameters, max_bytes],
    )
    return Page([row[:-2] for row in rows], rows[0][-2] if rows else 0)
