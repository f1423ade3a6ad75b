"""A bounded pool of connections to one PostgreSQL, whose failures are TierFailed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from cache_sidecar.background import heard
from cache_sidecar.dependencies import Dependency
from cache_sidecar.errors import Failure, Operation, ReadOnly, RequestError, SettingsError, Tier, TierFailed
from cache_sidecar.store import requests
from cache_sidecar.store.requests import FirstReply, RequestKey

T = TypeVar("T")
Connection = AsyncConnection[TupleRow]
# Callers that may wait for a connection, per connection.
WAITING_PER_CONNECTION = 64
# What psycopg raises when the server or the way to it is gone, rather than the statement being wrong.
_GONE = (psycopg.OperationalError, psycopg.InterfaceError)
# What two callers did to each other; the server is well.
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# What PostgreSQL says of a view that it cannot write through, in any language; and where it does: the code says too little.
_NOT_UPDATABLE = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.FeatureNotSupported)
_VIEWS = {"rewriteHandler.c", "execMain.c"}
# Classes of SQLSTATE that are about the statement's data or its transaction, and no sign that the database is unwell.
_ABOUT_DATA = {"21", "22", "23", "40", "44", "P0"}
# What a PgBouncer that does not know prepared statements makes of them.
_NOT_PREPARED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)
# What callers see of a database that refuses.
REFUSES = "calls that need what it refuses are UNAVAILABLE"
# Seconds after which a connection that was not needed is closed.
IDLE = 10.0
# Seconds that the server gets to end a statement whose caller left.
_GRACE = 1.0
# Seconds between two looks, of a caller who waits for a connection, whether the server accepts any.
_LOOK = 0.05


class Changed(NamedTuple):
    """One id that a write changed."""

    id: str
    version: int
    entry: bytes | None = None
    "What caches keep of the id from now on; None when it is deleted."


class Written(NamedTuple):
    """What a write did."""

    reply: bytes
    "The serialized reply; it goes into the ledger."
    id: str
    version: int
    "The version it made; 0 when it changed nothing."
    entry: bytes | None = None
    "What caches keep of the id from now on; None when it is deleted."
    also: Sequence[Changed] = ()
    "Further ids that it changed."
    repeated: bool = False
    "Whether it was done before: then `reply` is the first one, and the entries are not known."

    @property
    def changes(self) -> list[Changed]:
        """Every id it changed."""
        own = [Changed(self.id, self.version, self.entry)] if self.version else []
        return [*own, *self.also]


Work = Callable[[Connection], Awaitable[Written]]
"""Writes, in a transaction."""
AtOnce = Callable[[Connection, RequestKey], Awaitable[Written | None]]
"""Writes, with the ledger's row, by one statement outside of a transaction; or returns None, and has to be done as `Work`."""


class Guard(Protocol):
    """Limits in time and number what is asked of PostgreSQL, and tries again what may be; `tiers.guard` in the sidecar."""

    async def run(self, work: Callable[[], Awaitable[T]], operation: Operation) -> T:
        """Returns the work's result, or raises TierFailed."""
        ...


class Database:
    """One PostgreSQL."""

    def __init__(
        self, dsn: str, *, size: int, timeout: float, prepare: bool, guard: Guard, dependency: Dependency | None = None
    ) -> None:
        """`dependency` hears of statements that are refused; whether the server answers, the guard's breaker tells it."""
        if size < 1 or timeout <= 0:
            raise ValueError("size and timeout must be positive")
        check_dsn(dsn)
        self._guard = guard
        self._timeout = timeout
        self._dependency = dependency
        self._refusals = 0
        "Attempts to connect that failed."
        self._refusal = ""
        "What was said of the last one."
        self._running: set[asyncio.Task[Any]] = set()
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=size,
            max_waiting=size * WAITING_PER_CONNECTION,
            timeout=timeout,
            # What a burst opened is closed again, one at a time.
            max_idle=IDLE,
            # Connections are not checked when taken: with dead ones that takes minutes. `_use` checks them all at once.
            check=None,
            # Nobody but callers makes the pool try again: one connection at a time, as often as the guard lets them through.
            reconnect_timeout=0.0,
            connection_class=_telling(self._refused),
            open=False,
            name="cache_sidecar",
            kwargs={
                "autocommit": True,
                "prepare_threshold": 5 if prepare else None,
                "application_name": "cache_sidecar",
                "connect_timeout": max(2, int(timeout)),
            },
        )

    async def open(self) -> None:
        """Starts connecting; returns at once, whether or not the server answers."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes all connections, in use or not."""
        for task in self._running:
            task.cancel()
        await self._pool.close()
        if self._running:
            await asyncio.wait(self._running, timeout=_GRACE * 2)

    async def fetch(self, query: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Returns the rows of one reading statement; repeated once on a new connection when the old one was dead."""

        async def read(connection: Connection) -> list[TupleRow]:
            # `query` is one of the store's own constants; values travel as parameters.
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()

        async def attempt() -> list[TupleRow]:
            with self._failures():
                return await self._with_connection(read)

        return await self._guard.run(attempt, Operation.READ)

    async def write(self, key: RequestKey | None, work: Work, at_once: AtOnce | None = None) -> Written:
        """Runs `work` in a transaction with the ledger's row, and returns what it wrote, once it is committed.

        Given `at_once`, and a key, it tries that first.

        A repeat of an earlier request changes nothing, and returns the first reply with the versions made then. It is tried
        once: whether a transaction whose connection broke was committed, the caller finds out by repeating the request.
        """

        async def attempt() -> Written:
            with self._failures():
                try:
                    return await self._with_connection(lambda connection: _write(connection, key, work, at_once))
                except (RequestError, psycopg.errors.UniqueViolation):
                    # The work may fail for no other reason than that it was done before.
                    first = await self._with_connection(lambda connection: _first_reply(connection, key))
                    if first is None:
                        raise
                    changes = [Changed(id, version) for id, version in first.versions.items()]
                    return Written(first.reply, "", 0, also=changes, repeated=True)

        return await self._guard.run(attempt, Operation.WRITE)

    async def _with_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._use(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The caller leaves at once. A first cancellation makes psycopg ask the server to end the statement and wait for it,
            # ten seconds, if the server hangs. A second one gives the connection up.
            task.cancel()
            loop.call_later(_GRACE, task.cancel)
            task.add_done_callback(_heard)
            raise

    async def _use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        connection, is_dead = await self._taken(), False
        try:
            async with connection:
                return await work(connection)
        except psycopg.errors.ReadOnlySqlTransaction:
            # It was a primary when it was connected to; of several hosts in the DSN another one may be it by now.
            await self._pool.drain()
            raise
        except psycopg.Error:
            is_dead = connection.closed
            raise
        finally:
            await self._pool.putconn(connection)
            if is_dead:
                # Others are likely to be dead, too: found out here, for all callers, and not by one of them each.
                await self._pool.check()

    async def _taken(self) -> Connection:
        """Waits for a connection, unless the server accepts none."""
        loop = asyncio.get_running_loop()
        until, refusals = loop.time() + self._timeout, self._refusals
        while True:
            try:
                return await self._pool.getconn(timeout=_LOOK)
            except PoolTimeout:
                if self._refusals > refusals:
                    raise PoolTimeout(self._refusal) from None
                if loop.time() >= until:
                    raise

    def _refused(self, error: psycopg.Error) -> None:
        self._refusals, self._refusal = self._refusals + 1, str(error)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what psycopg raises for a server that is gone, slow or busy into TierFailed."""
        try:
            yield
        except TooManyRequests as error:
            raise TierFailed(Tier.STORE, Failure.BUSY, str(error)) from error
        except _CONFLICTS as error:
            raise TierFailed(Tier.STORE, Failure.CONFLICT, str(error)) from error
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
            raise TierFailed(Tier.STORE, Failure.TIMEOUT, str(error)) from error
        except (PoolTimeout, PoolClosed) as error:
            raise TierFailed(Tier.STORE, Failure.UNREACHABLE, str(error)) from error
        except psycopg.Error as error:
            if error.diag.source_file in _VIEWS and isinstance(error, _NOT_UPDATABLE):
                raise ReadOnly(str(error).splitlines()[0]) from error
            if _is_connection_lost(error):
                raise TierFailed(Tier.STORE, Failure.UNREACHABLE, str(error)) from error
            self._tell(error)
            raise TierFailed(Tier.STORE, Failure.REFUSED, str(error)) from error

    def _tell(self, error: psycopg.Error) -> None:
        """Says what was refused, until `check.py` finds that all is well."""
        if self._dependency is None or (error.sqlstate or "")[:2] in _ABOUT_DATA:
            return
        reason = error.diag.message_primary or str(error)  # the rest shows the statement, or the row
        if isinstance(error, _NOT_PREPARED):
            reason += ": behind a PgBouncer before 1.21 in transaction mode, set postgres_prepare = false"
        self._dependency.failed(reason, effect=REFUSES, problem=reason)


def _telling(refused: Callable[[psycopg.Error], None]) -> type[Connection]:
    """Returns a class that tells of every attempt to connect that failed."""

    class Telling(AsyncConnection[TupleRow]):
        @classmethod
        async def connect(cls, conninfo: str = "", **options: Any) -> Any:
            try:
                return await super().connect(conninfo, **options)
            except psycopg.Error as error:
                refused(error)
                raise

    return Telling


async def _write(connection: Connection, key: RequestKey | None, work: Work, at_once: AtOnce | None) -> Written:
    if key is not None and at_once is not None:
        written = await at_once(connection, key)
        if written is not None:
            return written
    async with connection.transaction():
        written = await work(connection)
        if key is not None:
            versions = {change.id: change.version for change in written.changes}
            await requests.remember(connection, key, FirstReply(written.reply, versions))
    return written


async def _first_reply(connection: Connection, key: RequestKey | None) -> FirstReply | None:
    return await requests.first_reply(connection, key) if key is not None else None


def _heard(task: asyncio.Task[Any]) -> None:
    """Hears what ended the work of a caller who left: a statement or a connection of his. Anything else is a defect."""
    if not task.cancelled() and not isinstance(task.exception(), psycopg.Error):
        heard(task)


def _is_connection_lost(error: psycopg.Error) -> bool:
    """Whether it is the connection that broke, and not the statement."""
    if isinstance(error, PoolTimeout | PoolClosed | TooManyRequests) or not isinstance(error, _GONE):
        return False
    # An error that the server tells has a code: 08 is a connection, 57P a server that stops or starts.
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def check_dsn(dsn: str) -> None:
    """Raises SettingsError for what libpq cannot read; in its own words it would show the password."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "a PostgreSQL URI cannot be read: it must be postgresql://user:password@host:5432/database?option=value, "
            "with libpq's names of options, and special characters percent-encoded"
        ) from None
