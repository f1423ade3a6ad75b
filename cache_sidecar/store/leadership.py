"""Leader election: per region, database and job, the relay leads whose session holds an advisory lock. SQL only.

The lock is released with its session, so a leader that dies is replaced at once. A leader that hangs, or whose machine is gone,
keeps its session. So a leader sends a heartbeat every `BEAT` seconds, and candidates terminate the session of one that was
silent for `SILENCE` seconds. A leader that was only slow finds out by its next statement. It saves its progress through the
same session, so two relays never both save theirs.

Needs a direct connection: through PgBouncer the session is shared, and LISTEN receives nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.store.connection import Connection

# Seconds between heartbeats, between attempts to become leader, and of silence after which a leader is replaced.
BEAT = 0.5
ATTEMPT_EVERY = 0.5
SILENCE = 3.0
# Seconds after which a connection whose other end is gone is noticed.
_TCP: dict[str, Any] = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 3000}
_LOCK = "hashtext('cache_sidecar.' || %s::text), hashtext(%s)"
_TRY = f"SELECT pg_try_advisory_lock({_LOCK})"
# Tried repeatedly: waiting in pg_advisory_lock would hold back VACUUM for as long.
_END_SILENT = """
    SELECT pg_terminate_backend(session.pid)
    FROM pg_locks AS lock JOIN pg_stat_activity AS session USING (pid)
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 2
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND lock.classid = hashtext('cache_sidecar.' || %s::text)::oid AND lock.objid = hashtext(%s)::oid
      AND session.state_change < clock_timestamp() - make_interval(secs => %s)"""


class LeadershipLost(SidecarError):
    """The session that held the lock has ended: another relay may lead."""


class Leadership:
    """A candidate in one region of one database."""

    def __init__(self, dsn: str, *, region: str, job: str = "relay", channel: str = "cache_sidecar_outbox") -> None:
        """Each job has a leader of its own; `channel` is that of the announcements for `Term.wait`, empty for none."""
        self._dsn = dsn
        self._region = region
        self._job = job
        self._channel = channel
        self.leads = False
        "Whether this relay leads now, as far as it knows."

    @asynccontextmanager
    async def term(self) -> AsyncIterator["Term"]:
        """Waits until this relay leads; it leads until the end of the context. Raises LeadershipLost."""
        connection = await self._connect()
        try:
            with _map_errors():
                await self._win_election(connection)
            term, heartbeats = Term(connection), BackgroundTasks()
            heartbeats.spawn(term.beat())
            self.leads = True
            try:
                yield term
            finally:
                self.leads = False
                await heartbeats.stop()
        finally:
            await _close(connection)

    async def _connect(self) -> Connection:
        with _map_errors():
            connection = await Connection.connect(self._dsn, connect_timeout=2, application_name="cache_sidecar_relay", **_TCP)
        try:
            with _map_errors():
                if self._channel:
                    await connection.execute(f"LISTEN {self._channel}")
        except BaseException:
            await _close(connection)
            raise
        return connection

    async def _win_election(self, connection: Connection) -> None:
        while True:
            cursor = await connection.execute(_TRY, [self._job, self._region])
            if await cursor.fetchone() == (True,):
                return
            await connection.execute(_END_SILENT, [self._job, self._region, SILENCE])
            await asyncio.sleep(ATTEMPT_EVERY)


class Term:
    """The period in which a relay leads. Methods raise LeadershipLost once it is over."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def session(self) -> Connection:
        """The session that holds the lock, for transactions."""
        return self._connection

    async def wait(self, seconds: float) -> None:
        """Returns when a change is announced, or after so many seconds; earlier announcements are consumed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with _map_errors():
            # In pieces: while it waits, the heartbeat cannot use the connection.
            while True:
                left = max(0.0, until - loop.time())
                announced = [_ async for _ in self._connection.notifies(timeout=min(left, BEAT), stop_after=1)]
                if announced or not left:
                    return

    async def fetch(self, statement: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Executes a statement, which fails unless this relay leads, and returns its rows."""
        with _map_errors():
            cursor = await self._connection.execute(statement, parameters)
            return await cursor.fetchall()

    async def execute(self, statement: str, parameters: Sequence[Any]) -> None:
        """As `fetch`, for a statement that returns no rows."""
        with _map_errors():
            await self._connection.execute(statement, parameters)

    async def beat(self) -> None:
        """Sends heartbeats until one fails."""
        with contextlib.suppress(LeadershipLost):
            while True:
                await asyncio.sleep(BEAT)
                await self.fetch("SELECT 1", [])


@contextlib.contextmanager
def _map_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise LeadershipLost(f"PostgreSQL: {str(error).strip() or type(error).__name__}") from error


async def _close(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()
