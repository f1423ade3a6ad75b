"""A bounded pool of connections to one PostgreSQL.

Callers connect when they need a connection; nothing connects in the background. So an outage of any length leaves no backlog
and no state to recover from, and each caller gets the server's own error.
"""

import asyncio
import random
import select
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks, log_failure
from cache_sidecar.store import postgres_errors
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.postgres_errors import ErrorLog

T = TypeVar("T")

# Seconds after which an idle connection is closed, all but one.
IDLE = 10.0
# Seconds after which a connection is replaced; spread, so that those opened together are not all replaced together.
LIFETIME = 3600.0
# Seconds that the server gets to cancel a statement whose caller left.
_GRACE = 1.0


class _Pooled(NamedTuple):
    """A connection that belongs to the pool."""

    connection: Connection
    since: float
    "When it was last used, in the event loop's time, as all times here."
    until: float
    "When it is to be replaced."
    generation: int


class ConnectionPool:
    """Opens up to `size` connections, and lends each to one caller at a time."""

    def __init__(self, dsn: str, *, size: int, timeout: float, prepare: bool, errors: ErrorLog) -> None:
        """`timeout` bounds connecting; `prepare` allows prepared statements."""
        self._dsn = dsn
        self.errors = errors
        self._options: dict[str, Any] = {
            "prepare_threshold": 5 if prepare else None,
            "application_name": "cache_sidecar",
            "connect_timeout": max(2, int(timeout)),
        }
        self._uses = BackgroundTasks()
        self._sweeps = BackgroundTasks()
        self.size = size
        "The maximum of connections."
        self.in_use = 0
        "Connections that are lent."
        self._slots = asyncio.Semaphore(size)
        self._idle: deque[_Pooled] = deque()
        "The longest unused first."
        self._generation = 0
        "Connections of an earlier one are not used again."
        self._is_open = False

    def open(self) -> None:
        """Accepts work, whether or not the server is up: connections are made when they are needed."""
        self._is_open = True

    @property
    def idle(self) -> int:
        """Connections that are open and not lent."""
        return len(self._idle)

    async def close(self) -> None:
        """Closes all connections, in use or not."""
        self._is_open = False
        for task in self._uses.running:
            task.cancel()
        await self._sweeps.stop()
        while self._idle:
            await self._idle.pop().connection.close()
        if self._uses.running:
            await asyncio.wait(self._uses.running, timeout=_GRACE * 2)

    async def use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs work on a connection; once more on a newer one if the session's cached state was outdated. Raises psycopg.Error.

        A caller that is cancelled leaves at once. The first cancellation of the work makes psycopg ask the server to cancel the
        statement and wait for that: ten seconds, if the server hangs. So a second one follows, which abandons the connection.
        """
        task = self._uses.spawn(self._run(work), log_failures=False)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            asyncio.get_running_loop().call_later(_GRACE, task.cancel)
            task.add_done_callback(_log_defect)
            raise

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._slots:
            is_retry = False
            while True:
                async with self._connection() as (pooled, is_new):
                    try:
                        return await work(pooled.connection)
                    except psycopg.Error as error:
                        # What the session remembers no longer holds, so nothing was committed: once more, on a newer one.
                        if is_retry or not self._is_outdated(error, pooled, is_new=is_new):
                            self.errors.log_refusal(error, pooled.connection)
                            raise
                is_retry = True

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[_Pooled, bool]]:
        """Lends a connection, and says whether it is a new one."""
        if not self._is_open:
            raise TierFailed(Tier.STORE, Failure.UNREACHABLE, "the sidecar is stopping")
        now, generation = asyncio.get_running_loop().time(), self._generation
        pooled = None
        while pooled is None and self._idle:
            candidate = self._idle.pop()  # the one used last
            # A server that ended an idle connection has sent something on it: after a restart, no work meets a dead one.
            if candidate.generation == self._generation and now < candidate.until and not _has_unread(candidate.connection):
                pooled = candidate
            else:
                await candidate.connection.close()
        is_new = pooled is None
        if pooled is None:
            connection = await Connection.connect(self._dsn, **self._options)
            until = now + LIFETIME * random.uniform(0.9, 1.0)  # noqa: S311  # not a secret
            pooled = _Pooled(connection, now, until, generation)
        self.in_use += 1
        try:
            yield pooled, is_new
        finally:
            self.in_use -= 1
            # One in the middle of a statement or transaction, or of an earlier generation, is not used again.
            is_idle = pooled.connection.pgconn.transaction_status == TransactionStatus.IDLE
            if is_idle and self._is_open and pooled.generation == self._generation:
                self._idle.append(pooled._replace(since=asyncio.get_running_loop().time()))
                if len(self._idle) > 1:
                    self._sweeps.once("sweep", self._close_unused)
            else:
                await pooled.connection.close()

    async def _close_unused(self) -> None:
        """Closes what a burst opened and nothing has used since; one connection is always kept."""
        loop = asyncio.get_running_loop()
        while len(self._idle) > 1:
            if (left := self._idle[0].since + IDLE - loop.time()) > 0:
                await asyncio.sleep(left)
            else:
                await self._idle.popleft().connection.close()

    def _is_outdated(self, error: psycopg.Error, pooled: _Pooled, *, is_new: bool) -> bool:
        """Whether work that failed so may succeed on a newer connection; if so, no present connection is used again."""
        if not postgres_errors.is_outdated(error):
            return False
        if pooled.generation != self._generation:
            return True  # another caller's work found out first
        connection = pooled.connection
        # Of several hosts in the DSN another may be the primary by now, so that is always tried. Any other error that a new
        # connection got, too, is no fault of the old ones: they would be replaced for every call.
        was_refused = self.errors.was_refused(error, connection)
        if not isinstance(error, psycopg.errors.ReadOnlySqlTransaction) and (is_new or was_refused):
            return False
        # A pooler that passes on the pid of the server's process is recognized only by the same error coming back.
        is_again = self.errors.was_renewed(error, connection)
        if postgres_errors.is_unprepared(error) and (connection.is_pooled or is_again):
            self._options["prepare_threshold"] = None  # a pooler without prepared statements
        self._generation += 1
        if not was_refused and not is_again:
            self.errors.log_renewal(error, connection)
        return not is_new


def _has_unread(connection: Connection) -> bool:
    """Whether the connection is closed, or the server sent something unasked: usually that it ends the connection."""
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _log_defect(task: asyncio.Task[Any]) -> None:
    """Logs what ended the work of a caller who left, unless it is the cancelled statement or connection."""
    if not task.cancelled() and not isinstance(task.exception(), psycopg.Error):
        log_failure(task)
