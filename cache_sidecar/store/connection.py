"""Connections to PostgreSQL whose statements mean the same whatever the role, the database or the server is set to.

Results come in binary formats (`values.py`), texts in UTF-8, and times are given with their offset: DateStyle, IntervalStyle,
TimeZone, bytea_output and the like change nothing. Our SQL names the schema of everything, so search_path is left to the shop's
own functions. What is left is in `SETTINGS`.

A session that is ours gets them once. Behind a pooler such as PgBouncer in transaction mode it is somebody else's after each
transaction: a SET would be lost for us and found by others. There each transaction says them for itself, and each statement is
in one. PostgreSQL itself tells the two apart: the pid that the server gave as the session's is that of the process, or not.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow

from cache_sidecar.store.values import TYPES


class _Setting(NamedTuple):
    value: str
    instead_of: str | None = None
    "Changed only if it is this; whatever else it is, if None."


# From pg_settings, what changes what a statement does. Not there: what only changes how values are written, what only changes
# plans, and row_security, role and search_path, which are how a shop says what we may see and do.
SETTINGS: Mapping[str, _Setting] = {
    # The SQL relies on READ COMMITTED: a statement sees what was committed while the one before waited for a lock.
    "default_transaction_isolation": _Setting("read committed"),
    "default_transaction_read_only": _Setting("off"),
    "default_transaction_deferrable": _Setting("off"),
    # With `replica` triggers don't fire: no versions, no outbox.
    "session_replication_role": _Setting("origin"),
    # What is acknowledged is on the disk. Whether on those of standbys too is the shop's to say.
    "synchronous_commit": _Setting("on", instead_of="off"),
    # Leaves out rows by chance.
    "gin_fuzzy_search_limit": _Setting("0"),
    "exit_on_error": _Setting("off"),
    # `postgres_timeout` is how long work may take; imports and migrations take as long as they take.
    "statement_timeout": _Setting("0"),
    "lock_timeout": _Setting("0"),
    "transaction_timeout": _Setting("0"),
    "idle_in_transaction_session_timeout": _Setting("0"),
    "idle_session_timeout": _Setting("0"),
}


def _set(where: str, *, local: bool) -> str:
    """Returns a statement that changes what is not as wanted. Those that the server does not know are passed over."""
    rows: list[str] = []
    for name, setting in SETTINGS.items():
        instead_of = f"'{setting.instead_of}'" if setting.instead_of else "NULL"
        rows.append(f"('{name}', '{setting.value}', {instead_of})")
    return f"""SELECT set_config(name, value, {local}) FROM (VALUES {", ".join(rows)}) AS wanted (name, value, instead_of)
        WHERE {where} AND coalesce(current_setting(name, true) = instead_of, current_setting(name, true) <> value)"""


_SETTLE = f"SELECT pg_backend_pid() = %s, pg_is_in_recovery(), ARRAY({_set('pg_backend_pid() = %s', local=False)})"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_SET = _set("true", local=True)


class Connection(AsyncConnection[TupleRow]):
    """A connection on which each statement is a transaction of its own, unless it is inside of `begin`."""

    is_pooled = False
    "Whether the server's session is ours for a transaction only."
    _begin = _BEGIN
    statement: str = ""
    "The last statement of `execute`."

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Self:
        """Connects, and settles what statements mean. Raises psycopg.Error."""
        # client_encoding is libpq's to send at the start, which poolers keep per client.
        options["client_encoding"] = "UTF8"
        connection = await super().connect(conninfo, autocommit=True, context=TYPES, **options)
        try:
            pid = connection.info.backend_pid
            cursor = await connection.execute(_SETTLE, [pid, pid])
            found = await cursor.fetchone()
        except BaseException:
            await connection.close()
            raise
        is_ours, is_standby, _ = found or (True, False, [])
        if not is_ours:
            connection.is_pooled = True
            # A standby takes no such wish, not even for a transaction that only reads.
            connection._begin = f"{_BEGIN}{'' if is_standby else ' READ WRITE'} NOT DEFERRABLE; {_SET}"  # noqa: SLF001
        return connection

    async def execute(self, query: Any, params: Any = None, **options: Any) -> AsyncCursor[TupleRow]:
        """Runs one statement; its rows come in binary formats."""
        self.statement = query if isinstance(query, str) else ""
        cursor = AsyncCursor(self)
        cursor.format = Format.BINARY
        return await cursor.execute(query, params, **options)

    async def script(self, statements: str) -> None:
        """Runs any number of statements, without parameters, in one round trip."""
        await AsyncCursor(self).execute(statements)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """A transaction: committed at the end, rolled back on an exception. Does not nest.

        An exception that comes out of the commit itself leaves open whether it was, if it is the connection that broke.
        """
        await self.script(self._begin)
        try:
            yield
        except BaseException:
            # While a statement runs nothing can be said any more: who gave it up closes the connection.
            if self.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                await self.script("ROLLBACK")
            raise
        cursor = await AsyncCursor(self).execute("COMMIT")
        if cursor.statusmessage != "COMMIT":
            # PostgreSQL's answer when a statement failed, and somebody went on regardless.
            raise psycopg.errors.InFailedSqlTransaction("the transaction was rolled back, since a statement in it failed")

    @asynccontextmanager
    async def each(self) -> AsyncIterator[None]:
        """For statements that are transactions of their own: where the session is not ours, all of them are in one instead."""
        if not self.is_pooled:
            yield
            return
        async with self.begin():
            yield
