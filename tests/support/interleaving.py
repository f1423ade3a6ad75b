"""Two concurrent calls through two sidecars, each held before every statement that it sends to PostgreSQL in a write.

A schedule decides which call runs its next statement, so the order is enforced. A call that waits for a lock of the other
one is recognized as waiting, and goes on by itself when the lock is released.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextvars import ContextVar
from typing import Any

import psycopg

from cache_sidecar.app import App
from cache_sidecar.store.connection import Connection as StoreConnection
from cache_sidecar.store.database import Database
from tests.support import inside

# Seconds after which a call that neither ended nor reached a gate may be waiting for a lock: then PostgreSQL is queried.
LOOK = 0.005
# Limit for two calls together, in seconds.
PATIENCE = 30.0


class Actor:
    """One call in steps: its statements, its commit, and the publication to Redis."""

    def __init__(self, watching: psycopg.AsyncConnection[Any]) -> None:
        self._watching = watching
        self._changed = asyncio.Event()
        "Set when it reached a gate, or ended."
        self._gate = asyncio.Event()
        self._is_free = False
        self.deadlocks = 0
        self._pid = 0
        "The pid of its PostgreSQL backend."
        self.task: asyncio.Future[Any]

    def begin(self, call: Awaitable[Any]) -> None:
        """Starts the call, which stops before its first statement."""
        self.task = asyncio.ensure_future(call)
        self.task.add_done_callback(lambda _: self._changed.set())

    async def passed(self, connection: psycopg.AsyncConnection[Any] | None = None) -> None:
        """Waits until the schedule lets it send the next statement, or publish to Redis."""
        self._pid = connection.info.backend_pid if connection is not None else 0
        if not self._is_free:
            self._gate.clear()
            self._changed.set()
            await self._gate.wait()

    async def steps(self, count: int | None) -> bool:
        """Runs that many steps, or all. Returns False if it ended earlier, or waits for the other call."""
        await self._settled()
        if count is None:
            self._is_free, count = True, 1
        for _ in range(count):
            if self.task.done() or await self._is_waiting():
                return False
            self._changed.clear()
            self._gate.set()
            await self._settled()
        return True

    async def _settled(self) -> None:
        """Waits until it is at a gate, has ended, or waits for a lock."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._changed.wait()
                    return
            if await self._is_waiting():
                return

    async def _is_waiting(self) -> bool:
        if self._changed.is_set() or not self._pid:
            return False
        cursor = await self._watching.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [self._pid])
        row = await cursor.fetchone()
        return bool(row and row[0])


async def meet(first: Actor, second: Actor, steps: int) -> bool:
    """Runs the first of two started calls for that many steps, the second as far as it gets, and then both to the end.

    The results are in their tasks. Returns whether the first went on after the second.
    """
    went_on = await first.steps(steps) and not first.task.done()
    for actor in (second, first, second):
        await actor.steps(None)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([first.task, second.task])
    return went_on


_acting: ContextVar[Actor | None] = ContextVar("acting", default=None)


class Held:
    """The writes of a sidecar, held before each statement for the call made through it."""

    def __init__(self, app: App) -> None:
        self.actor: Actor | None = None
        "The actor; None while nothing is held."
        for store in inside.stores_of(app).values():
            self._hold(store.database)

    def _hold(self, database: Database) -> None:
        write, with_connection = database.write, database.pool.use

        async def held_write(*arguments: Any, **options: Any) -> Any:
            _acting.set(self.actor)
            written = await write(*arguments, **options)
            if self.actor is not None:
                await self.actor.passed()
            return written

        async def held_connection(work: Any) -> Any:
            actor = _acting.get()
            if actor is None:
                return await with_connection(work)
            try:
                return await with_connection(lambda connection: work(Connection(connection, actor)))
            except psycopg.errors.DeadlockDetected:
                actor.deadlocks += 1
                raise

        database.write = held_write  # type: ignore[assignment,method-assign]
        database.pool.use = held_connection  # type: ignore[method-assign]


class Connection:
    """A connection whose statements are steps of an actor."""

    def __init__(self, connection: StoreConnection, actor: Actor) -> None:
        self._connection = connection
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, *arguments: Any) -> Any:
        """Is a step."""
        await self._actor.passed(self._connection)
        return await self._connection.execute(*arguments)

    @contextlib.asynccontextmanager
    async def cursor(self) -> AsyncIterator[Any]:
        """One step for all that is done with a cursor."""
        await self._actor.passed(self._connection)
        async with self._connection.cursor() as cursor:
            yield cursor

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """The commit is a step."""
        async with self._connection.begin():
            yield
            await self._actor.passed(self._connection)
