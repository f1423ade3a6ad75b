"""A bounded pool of connections to one PostgreSQL, whose failures are TierFailed."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from cache_sidecar.errors import Failure, RequestError, Tier, TierFailed
from cache_sidecar.store import requests
from cache_sidecar.store.requests import RequestKey

T = TypeVar("T")
Connection = AsyncConnection[TupleRow]
# Callers that may wait for a connection, per connection.
WAITING_PER_CONNECTION = 64
# What psycopg raises when the server or the way to it is gone, rather than the statement being wrong.
_GONE = (psycopg.OperationalError, psycopg.InterfaceError)


class Written(NamedTuple):
    """What a write did."""

    reply: bytes
    "The serialized reply; it goes into the ledger."
    id: str
    version: int
    "The version it made; 0 when it was done before."
    entry: bytes | None = None
    "What caches keep of the id from now on; None when it is deleted."


class Guard(Protocol):
    """Limits in time and number what is asked of PostgreSQL; `tiers.guard` in the sidecar."""

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Returns the work's result, or raises TierFailed."""
        ...


class Database:
    """One PostgreSQL."""

    def __init__(self, dsn: str, *, size: int, timeout: float, prepare: bool, guard: Guard) -> None:
        if size < 1 or timeout <= 0:
            raise ValueError("size and timeout must be positive")
        self._guard = guard
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=size,
            max_waiting=size * WAITING_PER_CONNECTION,
            timeout=timeout,
            # Connections are not checked when taken: with dead ones that takes minutes. `_retried` checks them all at once.
            check=None,
            reconnect_timeout=5.0,
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
        """Closes all connections."""
        await self._pool.close()

    async def fetch(self, query: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Returns the rows of one reading statement; repeated once on a new connection when the old one was dead."""

        async def read(connection: Connection) -> list[TupleRow]:
            # `query` is one of the store's own constants; values travel as parameters.
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()

        async def attempt() -> list[TupleRow]:
            with _failures():
                try:
                    return await self._with_connection(read)
                except _GONE:
                    await self._pool.check()
                    return await self._with_connection(read)

        return await self._guard.run(attempt)

    async def write(self, key: RequestKey | None, work: Callable[[Connection], Awaitable[Written]]) -> Written:
        """Runs `work` in a transaction with the ledger's row, and returns what it wrote, once it is committed.

        A repeat of an earlier request changes nothing, and returns the first reply with version 0. It is tried once: whether
        a transaction whose connection broke was committed, the caller finds out by repeating the request.
        """

        async def attempt() -> Written:
            with _failures():
                try:
                    return await self._with_connection(lambda connection: _transact(connection, key, work))
                except (RequestError, psycopg.errors.UniqueViolation):
                    # The work may fail for no other reason than that it was done before.
                    reply = await self._with_connection(lambda connection: _first_reply(connection, key))
                    if reply is None:
                        raise
                    return Written(reply, "", 0)

        return await self._guard.run(attempt)

    async def _with_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._pool.connection() as connection:
            return await work(connection)


async def _transact(
    connection: Connection, key: RequestKey | None, work: Callable[[Connection], Awaitable[Written]]
) -> Written:
    async with connection.transaction():
        written = await work(connection)
        if key is not None:
            await requests.remember(connection, key, written.reply)
    return written


async def _first_reply(connection: Connection, key: RequestKey | None) -> bytes | None:
    return await requests.first_reply(connection, key) if key is not None else None


@contextmanager
def _failures() -> Iterator[None]:
    """Turns what psycopg raises for a server that is gone, slow or busy into TierFailed."""
    try:
        yield
    except TooManyRequests as error:
        raise TierFailed(Tier.STORE, Failure.BUSY) from error
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        raise TierFailed(Tier.STORE, Failure.TIMEOUT, str(error)) from error
    except (PoolTimeout, PoolClosed, *_GONE) as error:
        raise TierFailed(Tier.STORE, Failure.UNREACHABLE, str(error)) from error
    except psycopg.Error as error:
        raise TierFailed(Tier.STORE, Failure.REFUSED, str(error)) from error
