"""Many rows at a time: COPY into a temporary table, then one upsert that touches only what differs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

import psycopg
from psycopg import sql

from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError
from cache_sidecar.store.connection import Connection

# Seconds.
_CONNECT_TIMEOUT = 10
# What PostgreSQL says of a value, of a constraint, or by a shop's own trigger.
_OF_A_ROW = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException)


class RowsRefused(InputError):
    """PostgreSQL refuses something in one of several rows."""


class Bulk:
    """Upserts rows of one table of the schema `cache_sidecar`, on a connection of its own. Subclasses name the table."""

    table: ClassVar[str]
    key: ClassVar[str]
    "The column that tells the rows apart."
    types: ClassVar[Mapping[str, str]]
    "The columns that can be given, with their types in SQL."

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection

    async def __aenter__(self) -> Self:
        with _failures():
            self._connection = await Connection.connect(
                self._dsn,
                connect_timeout=_CONNECT_TIMEOUT,
                application_name="cache_sidecar import",
                # Poolers that hand out another connection for each transaction know nothing of prepared statements.
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
        """Writes rows in one transaction, and returns how many are new or changed by it; no key may be there twice.

        Columns that are not given keep their value, or get their default in a new row. A row that is the same already is
        not written, so it makes no change event. Raises ServerUnreachable, RowsRefused when one of the rows cannot be written,
        or InputError for what PostgreSQL refuses of all of them.
        """
        with _failures():
            async with self._connection.begin():
                await self._connection.execute(self._incoming(columns))
                names = sql.SQL(", ").join(map(sql.Identifier, columns))
                async with self._connection.cursor() as cursor:
                    async with cursor.copy(sql.SQL("COPY pg_temp.incoming ({}) FROM STDIN").format(names)) as copy:
                        for row in rows:
                            await copy.write_row(row)
                    await cursor.execute(self._merge(columns))
                    return cursor.rowcount

    def _name(self) -> sql.Identifier:
        return sql.Identifier("cache_sidecar", self.table)

    def _incoming(self, columns: Sequence[str]) -> sql.Composed:
        # Made anew for each transaction: with a pooler, the next one may have another connection.
        fields = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(self.types[name])) for name in columns]
        return sql.SQL("CREATE TEMPORARY TABLE incoming ({}) ON COMMIT DROP").format(sql.SQL(", ").join(fields))

    def _merge(self, columns: Sequence[str]) -> sql.Composed:
        # Rows are locked in one order, so that two imports at once don't wait for each other.
        insert = """INSERT INTO {table} AS present ({columns})
                    SELECT {columns} FROM pg_temp.incoming ORDER BY {key} COLLATE "C" """
        return sql.SQL(insert).format(
            table=self._name(),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            key=sql.Identifier(self.key),
        ) + self._on_conflict(columns)

    def _on_conflict(self, columns: Sequence[str]) -> sql.Composed:
        """Takes what differs; of rows that come with their time, what is not older."""
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
    """Upserts products; the table's triggers draw the versions and write the outbox."""

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
    }


class BulkInventory(Bulk):
    """Sets how much is available, of each product over as many buckets as it has."""

    table = "inventory"
    key = "product_id"
    types: ClassVar[Mapping[str, str]] = {"product_id": "text", "available": "bigint"}

    def _merge(self, columns: Sequence[str]) -> sql.Composed:  # noqa: ARG002  # they are always the same two
        """One product after the other: what is available of it now is only known when its rows are locked."""
        return sql.SQL(
            """SELECT FROM (SELECT * FROM pg_temp.incoming ORDER BY product_id COLLATE "C") AS given
               WHERE cache_sidecar.import_stock(given.product_id, given.available)"""
        ).format()


class BulkCarts(Bulk):
    """Upserts carts, save those that were changed since what is given."""

    table = "carts"
    key = "user_id"
    types: ClassVar[Mapping[str, str]] = {
        "user_id": "text",
        "items": "jsonb",
        "create_time": "timestamptz",
        "update_time": "timestamptz",
    }


class BulkSessions(Bulk):
    """Inserts sessions; those that are there, also ended ones, stay as they are."""

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

    def _on_conflict(self, columns: Sequence[str]) -> sql.Composed:  # noqa: ARG002  # whatever is given
        return sql.SQL("ON CONFLICT DO NOTHING").format()


@contextmanager
def _failures() -> Iterator[None]:
    """Turns what psycopg raises into one line for the person at the terminal."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise SettingsError("the database has no schema cache_sidecar yet: run `cache-sidecar migrate` first") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise ServerUnreachable(f"PostgreSQL cannot be used: {_first_line(error)}") from None
    except _OF_A_ROW as error:
        raise RowsRefused(f"PostgreSQL refused the rows: {_first_line(error)}") from None
    except psycopg.Error as error:
        raise InputError(f"PostgreSQL refused the rows: {_first_line(error)}") from None


def _first_line(error: psycopg.Error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
