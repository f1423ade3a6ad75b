"""Connections to PostgreSQL whose statements mean the same whatever the settings of the role, the database or the server.

Results come in binary formats (`values.py`), texts in UTF-8, and times are given with their offset: DateStyle, IntervalStyle,
TimeZone, bytea_output and the like have no effect. Our SQL qualifies every name with its schema, so search_path is left to the
shop's own functions. The settings that do matter are in `SETTINGS`.

They are set once per session if the session is ours. Behind a pooler such as PgBouncer in transaction mode, it is another
client's after each transaction: a SET would be lost for us, and apply to that client. There each transaction sets them for
itself, and each statement is in a transaction. The two cases differ in the backend's pid: a pooler reports one of its own.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import unquote

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow

from cache_sidecar.core import tracing
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.password_file import URI_OPTION, read_password
from cache_sidecar.core.tracing import Attribute, Kind
from cache_sidecar.store.values import TYPES


class Executor(Protocol):
    """What executes a statement: a connection, or a transaction on one."""

    async def execute(self, query: Any, parameters: Sequence[Any] | None = None, /) -> AsyncCursor[TupleRow]:
        """Executes one statement."""
        ...


class _Setting(NamedTuple):
    value: str
    instead_of: str | None = None
    "Set only if the present value is this; if None, whenever it differs from `value`."


# The settings in pg_settings that change what a statement does. Left out: those that only change formats or plans, and
# row_security, role and search_path, by which a shop restricts what we may see and do.
SETTINGS: Mapping[str, _Setting] = {
    # The SQL relies on READ COMMITTED: a statement sees what was committed while the previous one waited for a lock.
    "default_transaction_isolation": _Setting("read committed"),
    "default_transaction_read_only": _Setting("off"),
    "default_transaction_deferrable": _Setting("off"),
    # With `replica`, triggers do not fire: no versions, no outbox.
    "session_replication_role": _Setting("origin"),
    # What is acknowledged is on disk. Whether also on the disks of standbys is the shop's decision.
    "synchronous_commit": _Setting("on", instead_of="off"),
    # Would leave out rows at random.
    "gin_fuzzy_search_limit": _Setting("0"),
    "exit_on_error": _Setting("off"),
    # `postgres_timeout` bounds calls; imports and migrations take as long as they take.
    "statement_timeout": _Setting("0"),
    "lock_timeout": _Setting("0"),
    "transaction_timeout": _Setting("0"),
    "idle_in_transaction_session_timeout": _Setting("0"),
    "idle_session_timeout": _Setting("0"),
}


def _set(where: str, *, local: bool) -> str:
    """Returns a statement that sets what differs from `SETTINGS`; settings that the server does not know are skipped."""
    rows: list[str] = []
    for name, setting in SETTINGS.items():
        instead_of = f"'{setting.instead_of}'" if setting.instead_of else "NULL"
        rows.append(f"('{name}', '{setting.value}', {instead_of})")
    return f"""SELECT set_config(name, value, {local}) FROM (VALUES {", ".join(rows)}) AS wanted (name, value, instead_of)
        WHERE {where} AND coalesce(current_setting(name, true) = instead_of, current_setting(name, true) <> value)"""


_APPLY_SETTINGS = f"SELECT pg_backend_pid() = %s, pg_is_in_recovery(), ARRAY({_set('pg_backend_pid() = %s', local=False)})"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_SET = _set("true", local=True)


@lru_cache(maxsize=1024)
def summarize(statement: str) -> tuple[str, str]:
    """Returns what a statement does and, with it, the table or function that it names first: `SELECT`, `SELECT products`."""
    words = re.sub(r"--[^\n]*", "", statement).split(None, 1)
    operation = re.sub(r"\W.*", "", words[0]).upper() if words else "SELECT"
    if operation == "WITH" and (of_last := re.findall(r"\b(INSERT|UPDATE|DELETE)\b", statement)):
        operation = of_last[0]
    named = re.search(r"\bcache_sidecar\.(\w+)", statement)
    return operation, f"{operation} {named[1]}" if named else operation


def split_password_file(dsn: str) -> tuple[str, str]:
    """Returns a DSN as libpq reads it, and the file that its option `password_file` names, an empty string without one."""
    uri, _, query = dsn.partition("?")
    if f"{URI_OPTION}=" not in query:
        return dsn, ""
    options = query.split("&")
    files = [option for option in options if option.startswith(f"{URI_OPTION}=")]
    rest = "&".join(option for option in options if option not in files)
    return f"{uri}?{rest}" if rest else uri, unquote(files[-1].partition("=")[2]) if files else ""


class Connection(AsyncConnection[TupleRow]):
    """A connection on which each statement is a transaction of its own, unless it is inside `begin`."""

    is_pooled = False
    "Whether a pooler lends us the session for one transaction at a time."
    _begin = _BEGIN
    statement: str = ""
    "The last statement of `execute`."

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Self:
        """Connects, and applies `SETTINGS`. Raises psycopg.Error."""
        conninfo, file = split_password_file(conninfo)
        if file:
            try:
                options["password"] = read_password(file)
            except SettingsError as error:
                raise psycopg.OperationalError(f"the password is missing: {error}") from None
        # libpq sends client_encoding when it connects, and poolers keep it per client.
        options["client_encoding"] = "UTF8"
        connection = await super().connect(conninfo, autocommit=True, context=TYPES, **options)
        try:
            pid = connection.info.backend_pid
            cursor = await connection.execute(_APPLY_SETTINGS, [pid, pid])
            found = await cursor.fetchone()
        except BaseException:
            await connection.close()
            raise
        is_ours, is_standby, _ = found or (True, False, [])
        if not is_ours:
            connection.is_pooled = True
            # A standby refuses READ WRITE, even for a transaction that only reads.
            connection._begin = f"{_BEGIN}{'' if is_standby else ' READ WRITE'} NOT DEFERRABLE; {_SET}"  # noqa: SLF001
        return connection

    async def execute(self, query: Any, params: Any = None, **options: Any) -> AsyncCursor[TupleRow]:
        """Executes one statement; its rows come in binary formats."""
        self.statement = query if isinstance(query, str) else ""
        cursor = AsyncCursor(self)
        cursor.format = Format.BINARY
        with self._span(self.statement):
            return await cursor.execute(query, params, **options)

    async def script(self, statements: str) -> None:
        """Executes any number of statements, without parameters, in one round trip."""
        with self._span(statements):
            await AsyncCursor(self).execute(statements)

    def _span(self, statement: str) -> AbstractContextManager[None]:
        """The span of a statement, if what executes it is traced: its summary, not its text, and no values."""
        return tracing.NO_SPAN if tracing.current() is None else self._begin_span(statement)

    @contextmanager
    def _begin_span(self, statement: str) -> Iterator[None]:
        operation, summary = summarize(statement)
        attributes: dict[str, Attribute] = {
            "db.system.name": "postgresql",
            "db.namespace": self.info.dbname,
            "db.operation.name": operation,
            "db.query.summary": summary,
            "server.address": self.info.host,
            "server.port": self.info.port,
        }
        with tracing.within(summary, Kind.CLIENT, attributes) as span:
            try:
                yield
            except psycopg.Error as error:
                if span is not None and error.sqlstate:
                    span.set("db.response.status_code", error.sqlstate)
                raise

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """A transaction: committed at the end, rolled back on an exception. Does not nest.

        If the connection breaks during the commit, it is not known whether that took place.
        """
        await self.script(self._begin)
        try:
            yield
        except BaseException:
            # While a statement is still running nothing can be sent; the pool closes such a connection.
            if self.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                await self.script("ROLLBACK")
            raise
        with self._span("COMMIT"):
            cursor = await AsyncCursor(self).execute("COMMIT")
        if cursor.statusmessage != "COMMIT":
            # PostgreSQL reports ROLLBACK when a statement failed and its error was ignored.
            raise psycopg.errors.InFailedSqlTransaction("the transaction was rolled back, since a statement in it failed")

    @asynccontextmanager
    async def each(self) -> AsyncIterator[None]:
        """For statements that commit one by one: through a pooler they are in one transaction instead, for its settings."""
        if not self.is_pooled:
            yield
            return
        async with self.begin():
            yield
