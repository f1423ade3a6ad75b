"""What recommendations are computed from: written by the one process that folds events in, read by sidecars. SQL only.

`ModelStore` writes. Its session holds an advisory lock for as long as it lasts, so that no other process writes. `save` also
checks that the position is still the one from which it began, and that no user was erased since: rows that were read before
would bring the history back. `RecommendationStore` reads, through the pool.
"""

import json
import struct
from array import array
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import psycopg

from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.database import Database
from cache_sidecar.store.postgres_errors import first_line
from cache_sidecar.store.user_data import persist
from cache_sidecar.store.writes import Transaction, WriteResult

# Rows read or written in one statement; other tasks of the process have a turn in between.
_ROWS, _WRITTEN = 2000, 500
# Seconds for which a purchase is recognized when it comes again.
RECOGNIZED = 30 * 86_400.0
# Seconds.
_CONNECT_TIMEOUT = 10
# The only row of `recommendation_popular`.
POPULAR = "all"
# The job of the relay's leader that folds events in, of all regions; and its lock, see `leadership.py`.
JOB = "recommendations"
_LOCK = f"SELECT pg_try_advisory_lock(hashtext('cache_sidecar.{JOB}'), hashtext(''))"
_LEADERS = f"""
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = hashtext('cache_sidecar.{JOB}')::oid AND objid = hashtext('')::oid"""
# Where events are announced once they are committed.
CHANNEL = "cache_sidecar_user_events"
_PAIRS = struct.Struct("<I")

ERASE_USER = "SELECT cache_sidecar.erase_recommendation_user(%s)"
"Erases a user's history. The user's events must be gone before, or they are folded in again."


class ModelInUse(InputError):
    """Another process folds events into this database."""


class TotalsRow(NamedTuple):
    """The row of `recommendation_model`."""

    position: int
    model_time: float
    popularity: float
    customers: int
    erasures: int


class ItemSums(NamedTuple):
    """A row of `recommendation_items`."""

    number: int
    product_id: str
    popularity: float
    baskets: float
    customers: int
    together: Mapping[int, float]
    also: Mapping[int, int]


class Row(NamedTuple):
    """A row of `recommendation_rows`; weights have the precision of 4 bytes."""

    product_id: str
    together: Sequence[str]
    together_weights: Sequence[float]
    also: Sequence[str]
    also_weights: Sequence[float]
    model_time: float


class EventRow(NamedTuple):
    """A row of `user_events`, as far as the model learns from it."""

    position: int
    event_id: str
    time: float
    "In seconds since 1970."
    user_id: str
    type: str
    product_ids: Sequence[str]


class EventPage(NamedTuple):
    """What `events` found."""

    events: Sequence[EventRow]
    is_full: bool
    "Whether there may be more."


class EventRange(NamedTuple):
    """The events that are kept."""

    events: int
    first: int
    "A position."
    last: int
    "A position."
    oldest_time: datetime


class UserRow(NamedTuple):
    """A row of `recommendation_users`, and the time of the newest event."""

    user_id: str
    history: Any
    model_time: float
    version: int
    profile_version: int


class PopularRow(NamedTuple):
    """A row of `recommendation_popular`."""

    name: str
    product_ids: Sequence[str]
    shares: Sequence[float]
    model_time: float
    version: int


class Changes(NamedTuple):
    """What `save` writes."""

    totals: TotalsRow
    items: Iterable[ItemSums]
    users: Iterable[tuple[str, Any]]
    "Histories, with their user_id."
    purchases: Sequence[str]
    "Their event_ids, to recognize them when they come again."


class ModelStore:
    """Reads and writes the model, on a session of its own."""

    def __init__(self, connection: Connection) -> None:
        """`connection` is the session of a leader, or of `open`."""
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator["ModelStore"]:
        """Connects, directly to the server: a pooler would share the lock with others.

        Raises ModelInUse, ServerUnreachable, and SettingsError for a database that is not migrated.
        """
        async with _connect(dsn) as connection:
            with _map_errors():
                cursor = await connection.execute(_LOCK)
                if await cursor.fetchone() != (True,):
                    raise ModelInUse("another process folds events into this database: only one can")
            yield cls(connection)

    @classmethod
    @asynccontextmanager
    async def connect(cls, dsn: str) -> AsyncIterator["ModelStore"]:
        """Connects as `open` does, but without the lock: to read, and to clear what a leader then learns anew."""
        async with _connect(dsn) as connection:
            yield cls(connection)

    async def has_leader(self) -> bool:
        """Returns whether a process folds events in."""
        return bool(await self._fetch(_LEADERS))

    async def totals(self) -> TotalsRow:
        """Returns the model's totals."""
        (row,) = await self._fetch(
            "SELECT position, model_time, popularity, customers, erasures FROM cache_sidecar.recommendation_model"
        )
        return TotalsRow(*row)

    async def last_number(self) -> int:
        """Returns the greatest number of a product; 0 without any."""
        ((number,),) = await self._fetch("SELECT coalesce(max(number), 0) FROM cache_sidecar.recommendation_items")
        return int(number)

    async def find_purchases(self, event_ids: Sequence[str]) -> set[str]:
        """Returns which of these purchases were folded in."""
        rows = await self._fetch(
            "SELECT event_id FROM cache_sidecar.recommendation_purchases WHERE event_id = ANY(%s)", [event_ids]
        )
        return {event_id for (event_id,) in rows}

    async def items(self, product_ids: Sequence[str]) -> list[ItemSums]:
        """Returns the sums of those products that have any."""
        return _items(await self._fetch(f"{_SELECT_ITEMS} WHERE product_id = ANY(%s)", [product_ids]))

    async def users(self, user_ids: Sequence[str]) -> dict[str, Any]:
        """Returns the histories of those users who have one, as of the saved position: `show` may be ahead of it."""
        rows = await self._fetch(
            """SELECT wanted.user_id, CASE WHEN ahead.user_id IS NULL THEN shown.history ELSE ahead.history END
               FROM unnest(%s::text[]) AS wanted (user_id)
               LEFT JOIN cache_sidecar.recommendation_users AS shown ON shown.user_id = wanted.user_id
               LEFT JOIN cache_sidecar.recommendation_ahead AS ahead ON ahead.user_id = wanted.user_id""",
            [user_ids],
        )
        return {user_id: history for user_id, history in rows if history is not None}

    async def events(self, after: int, limit: int) -> EventPage:
        """Returns the next events after a position, in order: of `limit` events, those from which the model learns.

        These are purchases, the newest one, for its time, and the last one, for its position.
        """
        rows = await self._fetch(_SELECT_EVENTS, [after, limit])
        return EventPage([EventRow(*row[1:]) for row in rows], bool(rows) and rows[0][0] == limit)

    async def event_range(self) -> EventRange | None:
        """Returns which events are kept; None without any."""
        ((count, first, last, oldest_time),) = await self._fetch(
            "SELECT count(*), min(position), max(position), min(event_time) FROM cache_sidecar.user_events"
        )
        return EventRange(count, first, last, oldest_time) if count else None

    async def is_published(self, position: int) -> bool:
        """Returns whether sidecars read everything of the events up to a position."""
        return bool(
            await self._fetch(
                """SELECT FROM cache_sidecar.recommendation_model WHERE position >= %s
                     AND NOT EXISTS (SELECT FROM cache_sidecar.recommendation_items WHERE is_stale)
                     AND (popularity = 0 OR EXISTS (SELECT FROM cache_sidecar.recommendation_popular))""",
                [position],
            )
        )

    async def save(self, changes: Changes, *, since: TotalsRow) -> bool:
        """Writes changes that were made since these totals were read, in one transaction.

        Returns False, with nothing written, if the totals are others by now: a user was erased, or another process wrote.
        """
        with _map_errors():
            async with self._connection.begin():
                # First of all: an erasure waits here until the commit, and then finds the rows to erase.
                cursor = await self._connection.execute(
                    """UPDATE cache_sidecar.recommendation_model
                       SET position = %s, model_time = %s, popularity = %s, customers = %s
                       WHERE position = %s AND erasures = %s""",
                    [*changes.totals[:4], since.position, since.erasures],
                )
                if cursor.rowcount == 0:
                    return False
                for items in _pages(changes.items):
                    await self._save_items(items)
                await self._save_users(changes.users)
                await self._connection.execute("DELETE FROM cache_sidecar.recommendation_ahead")
                await self._connection.execute(
                    "INSERT INTO cache_sidecar.recommendation_purchases (event_id) SELECT unnest(%s::text[])",
                    [list(changes.purchases)],
                )
                await self._connection.execute(
                    """DELETE FROM cache_sidecar.recommendation_purchases
                       WHERE fold_time < now() - make_interval(secs => %s)""",
                    [RECOGNIZED],
                )
        return True

    async def show(self, users: Collection[tuple[str, Any]], model_time: float, *, since: TotalsRow) -> bool:
        """Writes histories that are ahead of the saved position, for sidecars to read, in one transaction.

        `model_time` is the time of the newest event. Returns False as `save` does.
        """
        with _map_errors():
            async with self._connection.begin():
                cursor = await self._connection.execute(
                    """UPDATE cache_sidecar.recommendation_model SET model_time = greatest(model_time, %s)
                       WHERE position = %s AND erasures = %s""",
                    [model_time, since.position, since.erasures],
                )
                if cursor.rowcount == 0:
                    return False
                await self._connection.execute(
                    """INSERT INTO cache_sidecar.recommendation_ahead (user_id, history)
                       SELECT shown.user_id, present.history FROM unnest(%s::text[]) AS shown (user_id)
                       LEFT JOIN cache_sidecar.recommendation_users AS present ON present.user_id = shown.user_id
                       ON CONFLICT (user_id) DO NOTHING""",
                    [[user_id for user_id, _ in users]],
                )
                await self._save_users(users)
        return True

    async def stale_items(self, limit: int, *, published_before: float) -> list[ItemSums]:
        """Returns products that changed since they were published, and were published so many seconds ago or more."""
        return _items(
            await self._fetch(
                f"""{_SELECT_ITEMS} WHERE is_stale AND publish_time <= now() - make_interval(secs => %s)
                    ORDER BY publish_time, number LIMIT %s""",
                [published_before, limit],
            )
        )

    async def items_after(self, number: int, limit: int) -> list[ItemSums]:
        """Returns products in the order of their numbers."""
        return _items(await self._fetch(f"{_SELECT_ITEMS} WHERE number > %s ORDER BY number LIMIT %s", [number, limit]))

    async def neighbours(self, numbers: Collection[int]) -> dict[int, tuple[str, int]]:
        """Returns product_id and customers by number."""
        rows = await self._fetch(
            "SELECT number, product_id, customers FROM cache_sidecar.recommendation_items WHERE number = ANY(%s)",
            [list(numbers)],
        )
        return {number: (product_id, customers) for number, product_id, customers in rows}

    async def rows(self, product_ids: Sequence[str]) -> list[Row]:
        """Returns the published rows of those products that have one."""
        return [Row(*row) for row in await self._fetch(_SELECT_ROWS, [product_ids])]

    async def popular(self, limit: int) -> list[tuple[str, float]]:
        """Returns the most popular products with their shares of all purchases, best first."""
        return [(product_id, share) for product_id, share in await self._fetch(_SELECT_POPULAR, [limit])]

    async def all_rows(self) -> AsyncIterator[Row]:
        """Yields all published rows, by product_id."""
        async for row in self._all(f"SELECT {_ROW_COLUMNS} FROM cache_sidecar.recommendation_rows", "product_id"):
            yield Row(*row)

    async def all_users(self) -> AsyncIterator[tuple[str, Any]]:
        """Yields the history of each user, by user_id."""
        async for user_id, history in self._all("SELECT user_id, history FROM cache_sidecar.recommendation_users", "user_id"):
            yield user_id, history

    async def publish(self, numbers: Sequence[int], rows: Sequence[Row]) -> None:
        """Writes rows, and marks the products with these numbers as published, in one transaction."""
        with _map_errors():
            async with self._connection.begin():
                await self._connection.execute(
                    """INSERT INTO cache_sidecar.recommendation_rows
                           (product_id, together, together_weights, also, also_weights, model_time)
                       SELECT * FROM jsonb_to_recordset(%s::jsonb) AS given (product_id text, together text[],
                           together_weights float4[], also text[], also_weights float4[], model_time float8)
                       ON CONFLICT (product_id) DO UPDATE SET together = excluded.together,
                           together_weights = excluded.together_weights, also = excluded.also,
                           also_weights = excluded.also_weights, model_time = excluded.model_time""",
                    [json.dumps([row._asdict() for row in rows])],
                )
                await self._connection.execute(
                    """UPDATE cache_sidecar.recommendation_items SET is_stale = false, publish_time = now()
                       WHERE number = ANY(%s) AND is_stale""",
                    [list(numbers)],
                )

    async def publish_popular(self, limit: int, *, published_before: float) -> None:
        """Publishes the most popular products, if they changed and were published so many seconds ago or more."""
        await self._execute(
            f"""INSERT INTO cache_sidecar.recommendation_popular AS present (name, product_ids, shares, model_time)
                SELECT '{POPULAR}', array_agg(product_id ORDER BY share DESC, product_id),
                       array_agg(share ORDER BY share DESC, product_id), max(model_time)
                FROM ({_SELECT_POPULAR}) AS best (product_id, share), cache_sidecar.recommendation_model HAVING count(*) > 0
                ON CONFLICT (name) DO UPDATE SET product_ids = excluded.product_ids, shares = excluded.shares,
                    model_time = excluded.model_time, publish_time = now()
                WHERE (present.product_ids, present.shares) IS DISTINCT FROM (excluded.product_ids, excluded.shares)
                  AND present.publish_time <= now() - make_interval(secs => %s)""",
            [limit, published_before],
        )

    async def unpublish_unknown(self) -> None:
        """Deletes the rows of products that are in no purchase any more, after a model was learned anew."""
        await self._execute(
            """DELETE FROM cache_sidecar.recommendation_rows AS row WHERE NOT EXISTS (
                   SELECT FROM cache_sidecar.recommendation_items AS item WHERE item.product_id = row.product_id)"""
        )
        await self._execute(
            """DELETE FROM cache_sidecar.recommendation_popular
               WHERE NOT EXISTS (SELECT FROM cache_sidecar.recommendation_items)"""
        )

    async def clear(self) -> None:
        """Forgets all events, so that they can be folded in anew. Published rows stay until they are published again."""
        await self._execute("SELECT cache_sidecar.clear_recommendations()")

    async def _save_users(self, histories: Iterable[tuple[str, Any]]) -> None:
        for users in _pages(histories):
            # One text for all: an array of texts would have to quote each quotation mark in them.
            await self._connection.execute(
                """INSERT INTO cache_sidecar.recommendation_users AS present (user_id, history)
                   SELECT key, value FROM jsonb_each(%s::jsonb)
                   ON CONFLICT (user_id) DO UPDATE SET history = excluded.history""",
                [json.dumps(dict(users))],
            )

    async def _save_items(self, items: Sequence[ItemSums]) -> None:
        columns = [list(column) for column in zip(*items, strict=True)]
        columns[5], columns[6] = [_pack(row, "d") for row in columns[5]], [_pack(row, "i") for row in columns[6]]
        await self._connection.execute(
            """INSERT INTO cache_sidecar.recommendation_items
                   (number, product_id, popularity, baskets, customers, together, also)
               SELECT * FROM unnest(%b::int4[], %b::text[], %b::float8[], %b::float8[], %b::int4[], %b::bytea[], %b::bytea[])
               ON CONFLICT (number) DO UPDATE SET popularity = excluded.popularity, baskets = excluded.baskets,
                   customers = excluded.customers, together = excluded.together, also = excluded.also, is_stale = true""",
            columns,
        )

    async def _fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with _map_errors():
            cursor = await self._connection.execute(query, parameters or None)
            return await cursor.fetchall()

    async def _all(self, query: str, key: str) -> AsyncIterator[Any]:
        """Yields the rows of a table by its key, which is its first column."""
        rows = await self._fetch(f"{query} ORDER BY {key} LIMIT {_ROWS}")
        while rows:
            for row in rows:
                yield row
            rows = await self._fetch(f"{query} WHERE {key} > %s ORDER BY {key} LIMIT {_ROWS}", [rows[-1][0]])

    async def _execute(self, query: str, parameters: Sequence[Any] = ()) -> None:
        with _map_errors():
            await self._connection.execute(query, parameters or None)


class RecommendationStore:
    """What sidecars read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self, product_ids: Sequence[str]) -> list[tuple[Row, int]]:
        """Returns the published rows of those products that have one, with their versions."""
        query = f"SELECT {_ROW_COLUMNS}, version FROM cache_sidecar.recommendation_rows WHERE product_id = ANY(%s)"
        return [(Row(*row), version) for *row, version in await self._database.fetch(query, [list(product_ids)])]

    async def users(self, user_ids: Sequence[str]) -> list[UserRow]:
        """Returns the histories of those users who have one."""
        return [UserRow(*row) for row in await self._database.fetch(_SELECT_USERS, [list(user_ids)])]

    async def popular(self, names: Sequence[str]) -> list[PopularRow]:
        """Returns the lists of the most popular products with these names; there is one, `POPULAR`."""
        query = """SELECT name, product_ids, shares, model_time, version FROM cache_sidecar.recommendation_popular
                   WHERE name = ANY(%s)"""
        return [PopularRow(*row) for row in await self._database.fetch(query, [list(names)])]

    async def history(self, user_id: str) -> Any:
        """Returns what is kept of a user's purchases; None if that is nothing."""
        rows = await self._database.fetch(
            "SELECT history FROM cache_sidecar.recommendation_users WHERE user_id = %s", [user_id]
        )
        return rows[0][0] if rows else None

    async def erase(self, user_id: str) -> int:
        """Erases a user's history, and returns the number of rows. The user's events must be gone before."""

        async def write(tx: Transaction) -> WriteResult[int]:
            return WriteResult(b"", value=(await tx.execute(ERASE_USER, [user_id])).rowcount)

        return (await persist(self._database, write)).value or 0


_SELECT_ITEMS = (
    "SELECT number, product_id, popularity, baskets, customers, together, also FROM cache_sidecar.recommendation_items"
)
_ROW_COLUMNS = "product_id, together, together_weights, also, also_weights, model_time"
_SELECT_ROWS = f"SELECT {_ROW_COLUMNS} FROM cache_sidecar.recommendation_rows WHERE product_id = ANY(%s)"
_SELECT_EVENTS = """
    WITH page AS MATERIALIZED (
        SELECT position, event_id, event_time, event_type, user_id, products FROM cache_sidecar.user_events
        WHERE position > %s ORDER BY position LIMIT %s),
    of_page AS (SELECT count(*) AS events, max(position) AS last_position, max(event_time) AS newest_time FROM page)
    SELECT of_page.events, position, event_id::text, extract(epoch FROM event_time)::float8, user_id, event_type, ARRAY(
        SELECT line.product ->> 'product_id' FROM jsonb_array_elements(products) WITH ORDINALITY AS line (product, number)
        ORDER BY line.number)
    FROM page, of_page
    WHERE event_type = 'purchase-complete' OR position = last_position OR event_time = newest_time
    ORDER BY position"""
_SELECT_USERS = """
    SELECT user_id, history, (SELECT model_time FROM cache_sidecar.recommendation_model), version, profile_version
    FROM cache_sidecar.recommendation_users WHERE user_id = ANY(%s)"""
_SELECT_POPULAR = """
    SELECT product_id, item.popularity / model.popularity
    FROM cache_sidecar.recommendation_items AS item, cache_sidecar.recommendation_model AS model
    WHERE model.popularity > 0 ORDER BY item.popularity DESC, product_id LIMIT %s"""


def _items(rows: Sequence[Any]) -> list[ItemSums]:
    found = []
    for number, product_id, popularity, baskets, customers, together, also in rows:
        pairs = _unpack(together, "d"), _unpack(also, "i")
        found.append(ItemSums(number, product_id, popularity, baskets, customers, *pairs))
    return found


def _pack(row: Mapping[int, Any], kind: str) -> bytes:
    """Returns a row of pairs as bytes: their number, the numbers of the products, and the values; all little-endian."""
    count = len(row)
    return struct.pack(f"<I{count}i{count}{kind}", count, *row.keys(), *row.values())


def _unpack(packed: bytes, kind: str) -> dict[int, Any]:
    (count,) = _PAIRS.unpack_from(packed)
    values = struct.unpack_from(f"<{count}i{count}{kind}", packed, _PAIRS.size)
    return dict(zip(values[:count], values[count:], strict=True))


def as_stored(weights: Sequence[float]) -> list[float]:
    """Returns weights with the precision that `recommendation_rows` has."""
    return array("f", weights).tolist()


def _pages(rows: Iterable[Any]) -> Iterator[Sequence[Any]]:
    rest = iter(rows)
    while page := list(islice(rest, _WRITTEN)):
        yield page


@asynccontextmanager
async def _connect(dsn: str) -> AsyncIterator[Connection]:
    with _map_errors():
        connection = await Connection.connect(
            dsn, connect_timeout=_CONNECT_TIMEOUT, application_name="cache_sidecar recommendations"
        )
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def _map_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise SettingsError("the database has no tables for recommendations yet: run `cache-sidecar migrate` first") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise ServerUnreachable(f"PostgreSQL cannot be used: {first_line(error)}") from None
    except psycopg.Error as error:
        raise InputError(f"PostgreSQL refused the model: {first_line(error)}") from None
