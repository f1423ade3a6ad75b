"""PostgreSQL for the tests of the store: what a sidecar opens, and a plain connection for what other programs do."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg

from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Tier
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import Progress, RelayStore
from cache_sidecar.store.pool import Connection, Database, WriteResult
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard

INSERT = "INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code) VALUES (%s, %s, 1, 'EUR')"


@contextlib.asynccontextmanager
async def open_database(
    dsn: str,
    *,
    size: int = 2,
    seconds: float = 10.0,
    waiting: int = 64,
    prepare: bool = True,
    dependency: Dependency | None = None,
) -> AsyncIterator[Database]:
    """Opens a database as a sidecar does."""
    guard = Guard(
        Tier.STORE, timeout=seconds, max_running=size, max_waiting=waiting, breaker=Breaker(Tier.STORE, clock=SystemClock())
    )
    database = Database(dsn, size=size, timeout=seconds, prepare=prepare, guard=guard, dependency=dependency)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def run(dsn: str, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Runs one statement in a transaction of its own, as another program would."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(query, list(parameters) or None)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def insert(connection: Connection, id: str, title: str = "Sofa") -> int:
    """Inserts a product and returns its version."""
    cursor = await connection.execute(f"{INSERT} RETURNING version", [id, title])  # type: ignore[arg-type]
    (version,) = await cursor.fetchone() or (0,)
    return int(version)


class Creation:
    """Work that inserts a product, counting how often it ran."""

    def __init__(self, id: str, reply: bytes = b"reply") -> None:
        self.id, self.reply, self.runs = id, reply, 0

    async def __call__(self, connection: Connection) -> WriteResult:
        self.runs += 1
        return WriteResult(self.reply, self.id, await insert(connection, self.id), b"entry")


def key(number: int = 1, *, scope: str = "", method: str = "Create", fingerprint: bytes = b"same") -> RequestKey:
    """Returns the key of a request."""
    return RequestKey(scope, f"00000000-0000-0000-0000-{number:012}", method, fingerprint)


async def remember(database: str, region: str, position: int, *, settled: int | None = None) -> None:
    """Says that a region was told so far, and, unless said otherwise, for good."""
    progress = Progress(position, position if settled is None else settled)
    async with open_database(database) as opened, Leadership(database, region=region).term() as term:
        await RelayStore(opened).remember(term, region, progress)
