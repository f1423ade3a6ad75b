"""One PostgreSQL, as the sidecar reads and writes it: bounded by a guard, with failures as TierFailed."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from psycopg.rows import TupleRow

from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Operation, RequestError
from cache_sidecar.store import writes
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.pool import ConnectionPool
from cache_sidecar.store.postgres_errors import REJECTED_BY_ROWS, ErrorLog, check_dsn
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.store.writes import Write, WriteResult

T = TypeVar("T")


class Guard(Protocol):
    """Bounds the time and the concurrency of work, and retries what may be retried; `tiers.resilience.guard` in the sidecar."""

    async def run(self, work: Callable[[], Awaitable[T]], operation: Operation) -> T:
        """Returns the work's result, or raises TierFailed."""
        ...


class Database:
    """One PostgreSQL."""

    def __init__(
        self, dsn: str, *, size: int, timeout: float, prepare: bool, guard: Guard, dependency: Dependency | None = None
    ) -> None:
        """`guard` bounds how many wait for one of the `size` connections, and for how long.

        `dependency` is told of refused statements; whether the server answers at all is reported by the guard's breaker.
        """
        if size < 1 or timeout <= 0:
            raise ValueError("size and timeout must be positive")
        check_dsn(dsn)
        self._guard = guard
        self._errors = ErrorLog(dependency)
        self.pool = ConnectionPool(dsn, size=size, timeout=timeout, prepare=prepare, errors=self._errors)

    async def open(self) -> None:
        """Accepts work, whether or not the server is up: connections are made when they are needed."""
        self.pool.open()

    async def close(self) -> None:
        """Closes all connections, in use or not."""
        await self.pool.close()

    async def fetch(self, query: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Returns the rows of one reading statement; executed once more if the connection turned out to be dead."""

        async def read(connection: Connection) -> list[TupleRow]:
            # `query` is one of the store's own constants; values travel as parameters.
            async with connection.each():
                cursor = await connection.execute(query, parameters)
                return await cursor.fetchall()

        async def attempt() -> list[TupleRow]:
            with self._errors.map_errors():
                return await self.pool.use(read)

        return await self._guard.run(attempt, Operation.READ)

    async def ping(self) -> None:
        """Returns when the server answers. Raises TierFailed. Not through the guard, which is what asks."""

        async def select_nothing(connection: Connection) -> None:
            await connection.execute("SELECT")

        with self._errors.map_errors():
            await self.pool.use(select_nothing)

    async def write(self, key: RequestKey | None, write: Write[T], *, optimistic: bool = False) -> WriteResult[T]:
        """Runs a write with the ledger's row, see `writes.run`, and returns its result once it is committed.

        A repeat of an earlier request changes nothing, and returns the first reply with the versions made then.

        When a connection breaks, the write is not attempted again: whether it was committed is not known, and the caller finds
        out by repeating the request.
        """

        async def attempt() -> WriteResult[T]:
            with self._errors.map_errors():
                try:
                    return await self.pool.use(partial(writes.run, key=key, write=write, optimistic=optimistic))
                except (RequestError, *REJECTED_BY_ROWS):
                    # It may fail for no other reason than that it was done before: a product that was deleted is not found.
                    if key is None or (repeat := await self.pool.use(partial(writes.find_repeat, key=key))) is None:
                        raise
                    return repeat

        return await self._guard.run(attempt, Operation.WRITE)
