"""PostgreSQL for tests: the pool that a sidecar opens, and plain SQL as another program runs it."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg

from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Tier
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.database import Database
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import Progress, RelayStore
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.store.writes import RowChange, Transaction, WriteResult
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard

SIDECAR, RELAY = "cs_sidecar", "cs_relay"
"PostgreSQL's roles of sidecars and relays, which exist in the server of the tests and have their rights in each database."
OF_ROLES = "of-the-roles"
"Their password."
INSERT = "INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code) VALUES (%s, %s, 1, 'EUR')"

# Has the products of a test be in no list, so that their changes are the only ones.
UNLISTED = "ALTER TABLE cache_sidecar.products ALTER active SET DEFAULT false"


def as_role(role: str, dsn: str) -> str:
    """Returns a DSN with another role."""
    return f"postgresql://{role}:{OF_ROLES}@{dsn.rpartition('@')[2]}"


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


async def insert(connection: Connection | Transaction, id: str, title: str = "Sofa") -> int:
    """Inserts a product and returns its version."""
    cursor = await connection.execute(f"{INSERT} RETURNING version", [id, title])  # type: ignore[arg-type]
    (version,) = await cursor.fetchone() or (0,)
    return int(version)


class Creation:
    """A unit of work that inserts a product and counts how often it ran."""

    def __init__(self, id: str, reply: bytes = b"reply") -> None:
        self.id, self.reply, self.runs = id, reply, 0

    async def __call__(self, tx: Transaction) -> WriteResult[None]:
        self.runs += 1
        return WriteResult(self.reply, [RowChange(self.id, await insert(tx, self.id), b"entry")])


def key(number: int = 1, *, scope: str = "", method: str = "Create", fingerprint: bytes = b"same") -> RequestKey:
    """Returns the key of a request."""
    return RequestKey(scope, f"00000000-0000-0000-0000-{number:012}", method, fingerprint)


async def remember(database: str, region: str, position: int, *, settled: int | None = None) -> None:
    """Records how far a region's relay has come; `settled` is what it need not publish again."""
    progress = Progress(position, position if settled is None else settled)
    async with open_database(database) as opened, Leadership(database, region=region).term() as term:
        await RelayStore(opened).remember(term, region, progress)


@contextlib.asynccontextmanager
async def locked(database: str) -> AsyncIterator[None]:
    """Blocks every reader of products, as a migration would."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("LOCK TABLE cache_sidecar.products IN ACCESS EXCLUSIVE MODE")
        yield
