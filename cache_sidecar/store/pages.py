"""Pages of rows that are bounded in bytes as well as in number, so that no listing fetches more than a reply can hold."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from cache_sidecar.store.pool import Database

R = TypeVar("R")


class Page(NamedTuple, Generic[R]):
    """The rows of a page, the first ones of those that there are."""

    rows: Sequence[R]
    there: int
    "How many rows there were, up to the limit asked for; those that were not fetched are for the next page."


async def fetch(
    database: Database, query: str, parameters: Sequence[Any], *, size: str, max_bytes: int
) -> Page[tuple[Any, ...]]:
    """Returns the rows of an ordered and limited query, until they have so many bytes: the last may go beyond.

    `size` is an SQL expression that says about how many bytes one of them has. It has to see through compression:
    `octet_length` of a text does, without unpacking it; `pg_column_size` does not, unless something is appended to the value.
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
