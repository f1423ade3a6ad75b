"""Writes many rows at a time: COPY into a temporary table, then one upsert of the rows that differ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, LiteralString, Self

import psycopg
from psycopg import sql

from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError
from cache_sidecar.store import provided
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.postgres_errors import check_dsn, first_line
from cache_sidecar.store.provided import ProvidedList

# Seconds.
_CONNECT_TIMEOUT = 10
# Raised for a value, by a constraint, or by a shop's own trigger.
# Keys that are read, and rows that are deleted, at a time.
PAGE = 5000
_ROW_ERRORS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException)


class RowsRefused(InputError):
    """PostgreSQL refuses one of several rows."""


class Bulk:
    """Upserts rows of one table of the schema `cache_sidecar`, on a connection of its own. Subclasses name the table."""

    table: ClassVar[str]
    key: ClassVar[str]
    "The column of the primary key."
    types: ClassVar[Mapping[str, str]]
    "The columns that can be written, with their types in SQL."
    is_whole: ClassVar[bool] = False
    "Whether rows count only once `finish` was called, and then all of them take the place of those before."

    def __init__(self, dsn: str, *, batch_id: str = "") -> None:
        """`batch_id` names the rows of one import, where they count as a whole."""
        check_dsn(dsn)
        self._dsn = dsn
        self._batch_id = batch_id
        self._connection: Connection

    async def __aenter__(self) -> Self:
        with _map_errors():
            self._connection = await Connection.connect(
                self._dsn,
                connect_timeout=_CONNECT_TIMEOUT,
                application_name="cache_sidecar import",
                # A pooler may lend another connection for each transaction, without the prepared statements.
                prepare_threshold=None,
            )
            try:
                await self._connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(self._name()))
            except BaseException:
                await self._connection.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def upsert(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
        """Writes rows with distinct keys in one transaction, and returns how many were inserted or changed.

        Columns that are not in `columns` keep their values, or get their defaults in a new row. A row that does not differ is
        not written, so there is no change event. Raises ServerUnreachable, RowsRefused when one of the rows cannot be written,
        and InputError when PostgreSQL refuses the statement itself.
        """
        with _map_errors():
            async with self._connection.begin():
                await self._connection.execute(self._incoming(columns))
                names = sql.SQL(", ").join(map(sql.Identifier, columns))
                async with self._connection.cursor() as cursor:
                    async with cursor.copy(sql.SQL("COPY pg_temp.incoming ({}) FROM STDIN").format(names)) as copy:
                        for row in rows:
                            await copy.write_row(row)
                    await cursor.execute(self._merge(columns))
                    return cursor.rowcount

    async def finish(self) -> None:
        """Called once all rows are written."""

    async def now(self) -> datetime:
        """Returns the time of the database."""
        with _map_errors():
            cursor = await self._connection.execute("SELECT clock_timestamp()")
            (found,) = await cursor.fetchone() or (None,)
        assert isinstance(found, datetime)
        return found

    async def find_missing(self, has: Callable[[str], bool], *, before: datetime) -> tuple[int, list[str]]:
        """Returns the number of rows, and the keys of those that `has` does not know and that are older than `before`."""
        query = """SELECT {key} FROM {table} WHERE create_time < %s AND {key} > %s COLLATE "C"
                   ORDER BY {key} COLLATE "C" LIMIT %s"""
        total, last, missing = 0, "", list[str]()
        while True:
            with _map_errors():
                cursor = await self._connection.execute(self._statement(query), (before, last, PAGE))
                keys = [key for (key,) in await cursor.fetchall()]
            total += len(keys)
            missing += [key for key in keys if not has(key)]
            if len(keys) < PAGE:
                return total, missing
            last = keys[-1]

    async def delete(self, keys: Sequence[str], *, before: datetime) -> int:
        """Deletes rows that are older than `before`, a few thousand in a transaction; returns how many there were."""
        # In the order of keys, as in _merge.
        query = """DELETE FROM {table} WHERE {key} IN (
                   SELECT {key} FROM {table} WHERE {key} = ANY(%s) AND create_time < %s
                   ORDER BY {key} COLLATE "C" FOR UPDATE)"""
        deleted = 0
        for first in range(0, len(keys), PAGE):
            with _map_errors():
                async with self._connection.begin():
                    cursor = await self._connection.execute(self._statement(query), (keys[first : first + PAGE], before))
                    deleted += cursor.rowcount
        return deleted

    def _statement(self, query: LiteralString) -> sql.Composed:
        return sql.SQL(query).format(table=self._name(), key=sql.Identifier(self.key))

    async def discard(self) -> None:
        """Called instead of `finish` if what was written must not count."""

    def _name(self) -> sql.Identifier:
        return sql.Identifier("cache_sidecar", self.table)

    def _incoming(self, columns: Sequence[str]) -> sql.Composed:
        # Created for each transaction: through a pooler, the next one may have another connection.
        fields = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(self.types[name])) for name in columns]
        return sql.SQL("CREATE TEMPORARY TABLE incoming ({}) ON COMMIT DROP").format(sql.SQL(", ").join(fields))

    def _merge(self, columns: Sequence[str]) -> sql.Composed:
        # In the order of keys, so that two imports lock rows in the same order, and do not deadlock.
        insert = """INSERT INTO {table} AS present ({columns})
                    SELECT {columns} FROM pg_temp.incoming ORDER BY {key} COLLATE "C" """
        return sql.SQL(insert).format(
            table=self._name(),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            key=sql.Identifier(self.key),
        ) + self._on_conflict(columns)

    def _on_conflict(self, columns: Sequence[str]) -> sql.Composed:
        """Overwrites rows that differ; those that come with an update_time only if the present row is not newer."""
        values = [sql.Identifier(name) for name in columns if name != self.key]
        is_dated = "update_time" in columns
        return sql.SQL(
            """ON CONFLICT ({key}) DO UPDATE SET {touched} {changes}
               WHERE ({present}) IS DISTINCT FROM ({given}) {newer}"""
        ).format(
            key=sql.Identifier(self.key),
            touched=sql.SQL("" if is_dated else "update_time = now(),"),
            changes=sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in values),
            present=sql.SQL(", ").join(sql.SQL("present.{}").format(name) for name in values),
            given=sql.SQL(", ").join(sql.SQL("EXCLUDED.{}").format(name) for name in values),
            newer=sql.SQL("AND present.update_time <= EXCLUDED.update_time" if is_dated else ""),
        )


class BulkProducts(Bulk):
    """Upserts products; the table's triggers draw versions and write the outbox."""

    table = "products"
    key = "product_id"
    types: ClassVar[Mapping[str, str]] = {
        "product_id": "text",
        "title": "text",
        "description": "text",
        "price_units": "bigint",
        "price_nanos": "integer",
        "currency_code": "text",
        "categories": "text[]",
        "brand": "text",
        "image_uris": "text[]",
        "attributes": "jsonb",
        "active": "boolean",
        "rank": "double precision",
    }


class BulkInventory(Bulk):
    """Sets how much is available of each product, over as many buckets as it has."""

    table = "inventory"
    key = "product_id"
    types: ClassVar[Mapping[str, str]] = {"product_id": "text", "available": "bigint"}

    def _merge(self, columns: Sequence[str]) -> sql.Composed:  # noqa: ARG002  # always the same two
        """One product after the other: how much is available now is known once its rows are locked."""
        return sql.SQL(
            """SELECT FROM (SELECT * FROM pg_temp.incoming ORDER BY product_id COLLATE "C") AS given
               WHERE cache_sidecar.import_stock(given.product_id, given.available)"""
        ).format()


class BulkCarts(Bulk):
    """Upserts carts, except those that changed after the given update_time."""

    table = "carts"
    key = "user_id"
    types: ClassVar[Mapping[str, str]] = {
        "user_id": "text",
        "items": "jsonb",
        "create_time": "timestamptz",
        "update_time": "timestamptz",
    }


class BulkSessions(Bulk):
    """Inserts sessions; existing ones, also ended ones, stay as they are."""

    table = "sessions"
    key = "session_hash"
    types: ClassVar[Mapping[str, str]] = {
        "session_hash": "text",
        "user_id": "text",
        "attributes": "jsonb",
        "ip_address": "text",
        "user_agent": "text",
        "create_time": "timestamptz",
        "use_time": "timestamptz",
        "end_time": "timestamptz",
    }

    def _on_conflict(self, columns: Sequence[str]) -> sql.Composed:  # noqa: ARG002  # whichever
        return sql.SQL("ON CONFLICT DO NOTHING").format()


class BulkRecommendations(Bulk):
    """Adds lists to a batch, which is served once it is finished; of one that was interrupted, those that are missing."""

    table = "provided_recommendations"
    key = "key"
    types: ClassVar[Mapping[str, str]] = {}
    is_whole = True

    def __init__(self, dsn: str, *, batch_id: str = "") -> None:
        super().__init__(dsn, batch_id=batch_id)
        self._next = 0
        "The number of lists that were given to `upsert`."

    async def upsert(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
        """Adds lists, whose columns are those of ProvidedList, in one transaction; returns how many the batch did not have."""
        added = await self._receive([ProvidedList(**dict(zip(columns, row, strict=True))) for row in rows])
        self._next += len(rows)
        return added

    async def finish(self) -> None:
        """Has the batch be served, and deletes the one before. Raises InputError if there are no lists."""
        if not self._next:
            raise InputError("there is no list to import: those that are served stay")
        await self._receive([], commit=True)
        await self._sweep()

    async def discard(self) -> None:
        """Deletes the batch."""
        with _map_errors():
            async with self._connection.begin():
                await provided.retire(self._connection, self._batch_id)
        await self._sweep()

    async def _receive(self, lists: Sequence[ProvidedList], *, commit: bool = False) -> int:
        with _map_errors():
            async with self._connection.begin():
                progress = await provided.receive(self._connection, self._batch_id, lists, first=self._next, commit=commit)
                return progress.added

    async def _sweep(self) -> None:
        is_more = True
        while is_more:
            with _map_errors():
                async with self._connection.begin():
                    is_more = await provided.sweep(self._connection)


@contextmanager
def _map_errors() -> Iterator[None]:
    """Turns what psycopg raises into one line for the terminal."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise SettingsError("the database has no schema cache_sidecar yet: run `cache-sidecar migrate` first") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise ServerUnreachable(f"PostgreSQL cannot be used: {first_line(error)}") from None
    except _ROW_ERRORS as error:
        raise RowsRefused(f"PostgreSQL refused the rows: {first_line(error)}") from None
    except psycopg.Error as error:
        raise InputError(f"PostgreSQL refused the rows: {first_line(error)}") from None
