"""A bounded pool of connections to one PostgreSQL, whose failures are TierFailed.

Its callers connect: with a server that is away, nothing goes on behind them, nothing piles up, and each is told in the server's
own words. So there is nothing that an outage, however long, could fill or end for good.
"""

import asyncio
import random
import select
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from cache_sidecar.core import telemetry
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Operation, ReadOnly, RequestError, SettingsError, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait, log_failure
from cache_sidecar.store import requests
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.requests import FirstReply, RequestKey

__all__ = ["AtOnce", "Connection", "Database", "Guard", "RowChange", "Work", "WriteResult", "check_dsn"]

T = TypeVar("T")
# What PostgreSQL says of work that the rows, as they are now, do not allow: a constraint, a value, or a function of ours.
_NOT_NOW = (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException)
# What psycopg raises when the server or the way to it is gone, rather than the statement being wrong.
_GONE = (psycopg.OperationalError, psycopg.InterfaceError)
# What two callers did to each other; the server is well.
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# What PostgreSQL says of a view that it cannot write through, in any language; and where it does: the code says too little.
_NOT_UPDATABLE = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.FeatureNotSupported)
_VIEWS = {"rewriteHandler.c", "execMain.c"}
# What a session remembers that is no longer true: plans and types of before a table was replaced, prepared statements that a
# pooler keeps on another connection, that the server is a primary, a transaction that was left behind. All of it the server
# says of a statement, so nothing was committed.
_OUTDATED = (
    psycopg.errors.DatatypeMismatch,
    psycopg.errors.DuplicatePreparedStatement,
    psycopg.errors.InFailedSqlTransaction,
    psycopg.errors.InternalError_,  # "cache lookup failed", "could not open relation with OID"
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.ReadOnlySqlTransaction,
)
# "cached plan must not change result type"; "attribute 3 of type has been dropped".
_OUTDATED_IN = {"plancache.c", "execExprInterp.c"}
_UNPREPARED = (psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName)
# Classes of SQLSTATE that are about the statement's data or its transaction, and no sign that the database is unwell.
_ABOUT_DATA = {"21", "22", "23", "40", "44", "P0"}
# What callers see of a database that refuses.
REFUSES = "calls that need the refused statements fail with UNAVAILABLE"
# Seconds after which a connection that was not needed is closed, all but one.
IDLE = 10.0
# Seconds after which a connection is replaced; spread, so that those opened together are not all replaced together.
LIFETIME = 3600.0
# Seconds that the server gets to end a statement whose caller left.
_GRACE = 1.0
# Seconds in which a statement that PostgreSQL refuses is logged once, statements remembered for that, and how much of one.
_SAID_FOR = 60.0
_SAID = 100
_SHOWN = 300


class RowChange(NamedTuple):
    """One id that a write changed."""

    id: str
    version: int
    entry: bytes | None = None
    "What caches keep of the id from now on; None when it is deleted."


class WriteResult(NamedTuple):
    """What a write did."""

    reply: bytes
    "The serialized reply; it goes into the ledger."
    id: str
    version: int
    "The version it made; 0 when it changed nothing."
    entry: bytes | None = None
    "What caches keep of the id from now on; None when it is deleted."
    also: Sequence[RowChange] = ()
    "Further ids that it changed."
    repeated: bool = False
    "Whether it was done before: then `reply` is the first one, and the entries are not known."

    @property
    def changes(self) -> list[RowChange]:
        """Every id it changed."""
        own = [RowChange(self.id, self.version, self.entry)] if self.version else []
        return [*own, *self.also]


Work = Callable[[Connection], Awaitable[WriteResult]]
"""Writes, in a transaction."""
AtOnce = Callable[[Connection, RequestKey], Awaitable[WriteResult | None]]
"""Writes, with the ledger's row, by one statement outside of a transaction; or returns None, and has to be done as `Work`."""


class Guard(Protocol):
    """Limits in time and number what is asked of PostgreSQL, and tries again what may be; `tiers.guard` in the sidecar."""

    async def run(self, work: Callable[[], Awaitable[T]], operation: Operation) -> T:
        """Returns the work's result, or raises TierFailed."""
        ...


class _Free(NamedTuple):
    """A connection that nobody uses."""

    connection: Connection
    since: float
    "In the event loop's time, as all times here."
    until: float
    "When it is to be replaced."
    generation: int


class Database:
    """One PostgreSQL."""

    def __init__(
        self, dsn: str, *, size: int, timeout: float, prepare: bool, guard: Guard, dependency: Dependency | None = None
    ) -> None:
        """`guard` bounds who waits for one of the `size` connections, and for how long.

        `dependency` hears of statements that are refused; whether the server answers, the guard's breaker tells it.
        """
        if size < 1 or timeout <= 0:
            raise ValueError("size and timeout must be positive")
        check_dsn(dsn)
        self._dsn = dsn
        self._guard = guard
        self._options: dict[str, Any] = {
            "prepare_threshold": 5 if prepare else None,
            "application_name": "cache_sidecar",
            "connect_timeout": max(2, int(timeout)),
        }
        self._dependency = dependency
        self._running: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(size)
        self._free: deque[_Free] = deque()
        "The longest unused first."
        self._generation = 0
        "Connections of an earlier one are not used again."
        self._is_open = False
        self._sweeping: asyncio.Task[None] | None = None
        self._said: dict[str, float] = {}
        "When what PostgreSQL refuses was logged, by error and statement."

    async def open(self) -> None:
        """Lets work in, whether or not the server answers: it is connected to when it is needed."""
        self._is_open = True

    async def close(self) -> None:
        """Closes all connections, in use or not."""
        self._is_open = False
        for task in self._running:
            task.cancel()
        if self._sweeping is not None:
            await cancel_and_wait(self._sweeping)
        while self._free:
            await self._free.pop().connection.close()
        if self._running:
            await asyncio.wait(self._running, timeout=_GRACE * 2)

    async def fetch(self, query: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Returns the rows of one reading statement; repeated once on a new connection when the old one was dead."""

        async def read(connection: Connection) -> list[TupleRow]:
            # `query` is one of the store's own constants; values travel as parameters.
            async with connection.each():
                cursor = await connection.execute(query, parameters)
                return await cursor.fetchall()

        async def attempt() -> list[TupleRow]:
            with self._failures():
                return await self._with_connection(read)

        return await self._guard.run(attempt, Operation.READ)

    async def ping(self) -> None:
        """Returns when the server answers. Raises TierFailed; past the guard, which asks for it."""

        async def nothing(connection: Connection) -> None:
            await connection.execute("SELECT")

        with self._failures():
            await self._with_connection(nothing)

    async def write(self, key: RequestKey | None, work: Work, at_once: AtOnce | None = None) -> WriteResult:
        """Runs `work` in a transaction with the ledger's row, and returns what it wrote, once it is committed.

        Given `at_once`, and a key, it tries that first.

        A repeat of an earlier request changes nothing, and returns the first reply with the versions made then. It is tried
        once: whether a transaction whose connection broke was committed, the caller finds out by repeating the request.
        """

        async def attempt() -> WriteResult:
            with self._failures():
                try:
                    return await self._with_connection(lambda connection: _write(connection, key, work, at_once))
                except (RequestError, *_NOT_NOW):
                    # The work may fail for no other reason than that it was done before.
                    first = await self._with_connection(lambda connection: _first_reply(connection, key))
                    if first is None:
                        raise
                    changes = [RowChange(id, version) for id, version in first.versions.items()]
                    return WriteResult(first.reply, "", 0, also=changes, repeated=True)

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
        async with self._slots:
            async with self._connection() as (taken, is_new):
                try:
                    return await work(taken.connection)
                except psycopg.Error as error:
                    if not self._is_outdated(error, taken, is_new=is_new):
                        self._refused(error, taken.connection)
                        raise
            # What that session remembers holds no longer, and nothing was committed: once more, on one that is newer.
            async with self._connection() as (taken, _):
                try:
                    return await work(taken.connection)
                except psycopg.Error as error:
                    self._refused(error, taken.connection)
                    raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[_Free, bool]]:
        """A connection, and whether it is a new one."""
        if not self._is_open:
            raise TierFailed(Tier.STORE, Failure.UNREACHABLE, "the sidecar is stopping")
        now, generation = asyncio.get_running_loop().time(), self._generation
        taken = await self._taken(now)
        is_new = taken is None
        if taken is None:
            connection = await Connection.connect(self._dsn, **self._options)
            until = now + LIFETIME * random.uniform(0.9, 1.0)  # noqa: S311  # nobody gains by guessing it
            taken = _Free(connection, now, until, generation)
        try:
            yield taken, is_new
        finally:
            await self._given_back(taken)

    async def _taken(self, now: float) -> _Free | None:
        """Takes one that is free and alive, if there is any: the one used last."""
        while self._free:
            free = self._free.pop()
            # A server that ended it while nobody looked has said so: after a restart no work meets a dead connection.
            if free.generation == self._generation and now < free.until and not _has_news(free.connection):
                return free
            await free.connection.close()
        return None

    async def _given_back(self, used: _Free) -> None:
        loop = asyncio.get_running_loop()
        is_idle = used.connection.pgconn.transaction_status == TransactionStatus.IDLE
        if not (is_idle and self._is_open and used.generation == self._generation):
            await used.connection.close()
            return
        self._free.append(used._replace(since=loop.time()))
        if len(self._free) > 1 and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = loop.create_task(self._close_unused())

    async def _close_unused(self) -> None:
        """Closes what a burst opened, and nobody used since; one connection is always kept."""
        loop = asyncio.get_running_loop()
        while len(self._free) > 1:
            if (left := self._free[0].since + IDLE - loop.time()) > 0:
                await asyncio.sleep(left)
            else:
                await self._free.popleft().connection.close()

    def _is_outdated(self, error: psycopg.Error, used: _Free, *, is_new: bool) -> bool:
        """Whether work that failed so may succeed on a newer connection; then none of the present ones is used again."""
        if not isinstance(error, _OUTDATED) and error.diag.source_file not in _OUTDATED_IN:
            return False
        if used.generation != self._generation:
            return True  # another's work found it out
        # Of several hosts in the DSN another one may be the primary by now, so that is always looked for. Anything else that a
        # new connection was told too is no fault of the old ones: they would be replaced for every call.
        was_refused = self._was_refused(error, used.connection)
        if not isinstance(error, psycopg.errors.ReadOnlySqlTransaction) and (is_new or was_refused):
            return False
        # A pooler that passes on the pid of the server's process is not noticed by it, but by finding the same out again.
        is_again = self._is_said(f"renewed {_key(error, used.connection)}")
        if isinstance(error, _UNPREPARED) and (used.connection.is_pooled or is_again):
            self._options["prepare_threshold"] = None  # a pooler that does not know of prepared statements
        self._generation += 1
        if not was_refused and not is_again:
            self._say(f"renewed {_key(error, used.connection)}")
            telemetry.log.warning(
                "replacing connections: the schema or the pooler changed under the old ones",
                statement=_shown(used.connection.statement),
                error=_words(error),
            )
        return not is_new

    def _refused(self, error: psycopg.Error, connection: Connection) -> None:
        """Logs what PostgreSQL says of a statement that it refuses; once a minute, as it is refused to every caller."""
        if _failure_of(error) is not Failure.REFUSED or isinstance(error, psycopg.errors.UniqueViolation) or _is_view(error):
            return
        statement = _shown(connection.statement)
        if not self._tell(error, statement=statement) and not self._was_refused(error, connection):
            telemetry.log.warning("PostgreSQL refuses a statement", statement=statement, error=_words(error))
        self._say(_key(error, connection))

    def _was_refused(self, error: psycopg.Error, connection: Connection) -> bool:
        return self._is_said(_key(error, connection))

    def _say(self, key: str) -> None:
        if len(self._said) >= _SAID:
            self._said.clear()
        self._said.setdefault(key, asyncio.get_running_loop().time())

    def _is_said(self, key: str) -> bool:
        said_at = self._said.get(key)
        if said_at is not None and said_at + _SAID_FOR <= asyncio.get_running_loop().time():
            del self._said[key]
            return False
        return said_at is not None

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what psycopg raises for a server that is gone, slow or busy into TierFailed."""
        try:
            yield
        except psycopg.Error as error:
            if _is_view(error):
                raise ReadOnly(str(error).splitlines()[0]) from error
            failure = _failure_of(error)
            if failure is Failure.REFUSED:
                self._tell(error)
            raise TierFailed(Tier.STORE, failure, str(error)) from error

    def _tell(self, error: psycopg.Error, **facts: str) -> bool:
        """Says what was refused, until `check.py` finds that all is well; returns whether that is logged."""
        if self._dependency is None or (error.sqlstate or "")[:2] in _ABOUT_DATA:
            return False
        reason = error.diag.message_primary or str(error)  # the rest shows the statement, or the row
        if isinstance(error, _UNPREPARED):
            reason += ": behind a PgBouncer before 1.21 in transaction mode, set postgres_prepare = false"
        return self._dependency.failed(reason, effect=REFUSES, problem=reason, **facts)


def _has_news(connection: Connection) -> bool:
    """Whether the server said something unasked: mostly, that it ends the connection."""
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _key(error: psycopg.Error, connection: Connection) -> str:
    return f"{error.sqlstate} {connection.statement}"


def _shown(statement: str) -> str:
    return " ".join(statement.split())[:_SHOWN]


def _words(error: psycopg.Error) -> str:
    """Returns what PostgreSQL says, unless it quotes values: those are customers'."""
    name = type(error).__name__
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError | psycopg.errors.RaiseException):
        return name
    return f"{name}: {error.diag.message_primary or (str(error).splitlines() or [''])[0]}"


async def _write(connection: Connection, key: RequestKey | None, work: Work, at_once: AtOnce | None) -> WriteResult:
    if key is not None and at_once is not None:
        async with connection.each():
            written = await at_once(connection, key)
        if written is not None:
            return written
    async with connection.begin():
        written = await work(connection)
        if key is not None:
            versions = {change.id: change.version for change in written.changes}
            await requests.remember(connection, key, FirstReply(written.reply, versions))
    return written


async def _first_reply(connection: Connection, key: RequestKey | None) -> FirstReply | None:
    if key is None:
        return None
    async with connection.each():
        return await requests.first_reply(connection, key)


def _heard(task: asyncio.Task[Any]) -> None:
    """Hears what ended the work of a caller who left: a statement or a connection of his. Anything else is a defect."""
    if not task.cancelled() and not isinstance(task.exception(), psycopg.Error):
        log_failure(task)


def _failure_of(error: psycopg.Error) -> Failure:
    if isinstance(error, _CONFLICTS):
        return Failure.CONFLICT
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return Failure.TIMEOUT
    # An error that the server tells has a code: 08 is a connection, 57P a server that stops or starts.
    is_gone = isinstance(error, _GONE) and (error.sqlstate is None or error.sqlstate.startswith(("08", "57P")))
    return Failure.UNREACHABLE if is_gone else Failure.REFUSED


def _is_view(error: psycopg.Error) -> bool:
    return isinstance(error, _NOT_UPDATABLE) and error.diag.source_file in _VIEWS


def check_dsn(dsn: str) -> None:
    """Raises SettingsError for what libpq cannot read; in its own words it would show the password."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "a PostgreSQL URI cannot be read: it must be postgresql://user:password@host:5432/database?option=value, "
            "with libpq's names of options, and special characters percent-encoded"
        ) from None
