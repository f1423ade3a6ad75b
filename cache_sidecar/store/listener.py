"""Waits for PostgreSQL to say that something changed. Needs a direct connection: through PgBouncer, LISTEN hears nothing."""

import asyncio
import contextlib

import psycopg


class Listener:
    """Listens on the outbox's channel of one database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.AsyncConnection | None = None

    async def wait(self, seconds: float) -> None:
        """Returns when something changed, or after so many seconds; only the latter while PostgreSQL is away."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            connection = await self._connected()
            async for _ in connection.notifies(timeout=max(0.0, until - loop.time()), stop_after=1):
                pass
        except (psycopg.OperationalError, OSError):
            await self.close()
            await asyncio.sleep(max(0.0, until - loop.time()))

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, connect_timeout=2, application_name="cache_sidecar_listener"
            )
            await self._connection.execute("LISTEN cache_sidecar_outbox")
        return self._connection

    async def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()
