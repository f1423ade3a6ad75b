"""One relay leads per region and database: the one whose session holds an advisory lock. SQL only.

The lock ends with its session, so a leader that dies is followed at once. One that hangs, or whose machine is gone, keeps its
session: so a leader says something every `BEAT` seconds, and who waits for the lock ends the session of one that is silent
for `SILENCE` seconds. A leader that was only slow learns of it by its next statement. What it remembers of its work goes
through the same session, so nothing is remembered by two.

Needs a direct connection: through PgBouncer a session is somebody else's, and LISTEN hears nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.store.connection import Connection

# Seconds between two signs of life, between two attempts to lead, and without a sign after which a leader is given up.
BEAT = 0.5
ATTEMPT_EVERY = 0.5
SILENCE = 3.0
# A connection whose other end is gone is noticed after as many seconds.
_TCP: dict[str, Any] = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 3000}
_LOCK = "hashtext('cache_sidecar.relay'), hashtext(%s)"
_TRY = f"SELECT pg_try_advisory_lock({_LOCK})"
# Waiting in pg_advisory_lock instead would hold back VACUUM for as long as it waits.
_END_SILENT = """
    SELECT pg_terminate_backend(session.pid)
    FROM pg_locks AS lock JOIN pg_stat_activity AS session USING (pid)
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 2
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND lock.classid = hashtext('cache_sidecar.relay')::oid AND lock.objid = hashtext(%s)::oid
      AND session.state_change < clock_timestamp() - make_interval(secs => %s)"""


class LeadershipLost(SidecarError):
    """The session that held the lock is over: somebody else may lead."""


class Leadership:
    """Stands for election in one region of one database."""

    def __init__(self, dsn: str, *, region: str) -> None:
        self._dsn = dsn
        self._region = region

    @asynccontextmanager
    async def term(self) -> AsyncIterator["Term"]:
        """Waits until this relay leads, and leads until the end of the context. Raises LeadershipLost."""
        connection = await self._connected()
        try:
            with _lost():
                await self._elected(connection)
            term = Term(connection)
            beating = asyncio.get_running_loop().create_task(term.beat())
            beating.add_done_callback(log_failure)
            try:
                yield term
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
        finally:
            await _close(connection)

    async def _connected(self) -> Connection:
        with _lost():
            connection = await Connection.connect(self._dsn, connect_timeout=2, application_name="cache_sidecar_relay", **_TCP)
        try:
            with _lost():
                await connection.execute("LISTEN cache_sidecar_outbox")
        except BaseException:
            await _close(connection)
            raise
        return connection

    async def _elected(self, connection: Connection) -> None:
        while True:
            cursor = await connection.execute(_TRY, [self._region])
            if await cursor.fetchone() == (True,):
                return
            await connection.execute(_END_SILENT, [self._region, SILENCE])
            await asyncio.sleep(ATTEMPT_EVERY)


class Term:
    """The time for which a relay leads. Methods raise LeadershipLost once that is over."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def wait(self, seconds: float) -> None:
        """Returns when something changed, or after so many seconds; what was announced up to then is forgotten."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with _lost():
            # In pieces: while it waits nothing else can be said.
            while True:
                left = max(0.0, until - loop.time())
                log_failure = [_ async for _ in self._connection.notifies(timeout=min(left, BEAT), stop_after=1)]
                if log_failure or not left:
                    return

    async def fetch(self, statement: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Runs a statement that counts only while this relay leads, and returns its rows."""
        with _lost():
            cursor = await self._connection.execute(statement, parameters)
            return await cursor.fetchall()

    async def beat(self) -> None:
        """Says that this relay is there, until that fails."""
        with contextlib.suppress(LeadershipLost):
            while True:
                await asyncio.sleep(BEAT)
                await self.fetch("SELECT 1", [])


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise LeadershipLost(f"PostgreSQL: {str(error).strip() or type(error).__name__}") from error


async def _close(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()
