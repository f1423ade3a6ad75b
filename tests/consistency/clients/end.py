"""The comparison once everything is at rest."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psycopg

from tests.consistency.clients.carts import CartClient, user_of
from tests.consistency.clients.products import ProductClient
from tests.consistency.clients.stock import Auditor, StockClient
from tests.consistency.load import Load
from tests.consistency.rulebook import CARTS
from tests.support.cart_model import lines_of
from tests.support.until import until

# Seconds that everything has to come to rest: far longer than it takes, and than any bound.
PATIENCE = 60.0

Versions = Mapping[int, int]


class AtRest:
    """Compares what sidecars, streams and clients say with PostgreSQL."""

    def __init__(
        self,
        load: Load,
        *,
        products: Mapping[int, ProductClient],
        carts: CartClient,
        stock: StockClient,
        auditor: Auditor,
        patience: float = PATIENCE,
    ) -> None:
        """`products` reads from each sidecar; `patience` is in seconds."""
        self._load = load
        self._products = products
        self._carts = carts
        self._stock = stock
        self._auditor = auditor
        self._patience = patience
        self._deadline = 0.0

    async def compare(self, ids: Sequence[str]) -> None:
        """Waits until everything was compared; what is not right in time is a violation."""
        self._deadline = time.monotonic() + self._patience
        with self._load.during("rest"):
            await self._auditor.at_rest(until=self._deadline)
            await self._every_change()
            expected = {
                "product": await self._versions("SELECT product_id, version FROM cache_sidecar.products", ids),
                "cart": await self._versions(
                    "SELECT user_id, version FROM cache_sidecar.carts", [user_of(n) for n in range(CARTS)]
                ),
                "inventory": await until(self._stock.stored),
            }
            for sidecar in (*self._load.busy, *self._load.idle):
                await self._sidecar("product", sidecar, self._products[sidecar].versions, expected["product"])
                await self._sidecar("cart", sidecar, lambda of=sidecar: self._carts.versions(of), expected["cart"])
                await self._sidecar("inventory", sidecar, lambda of=sidecar: self._stock.versions(of), expected["inventory"])
            await self._streams(expected)

    async def _versions(self, statement: str, ids: Sequence[str]) -> Versions:
        numbers = {id: number for number, id in enumerate(ids)}
        async with await psycopg.AsyncConnection.connect(self._load.dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement)  # type: ignore[call-overload]
            found = {numbers[id]: int(version) for id, version in await cursor.fetchall()}
        return {number: found.get(number, 0) for number in range(len(ids))}

    async def _every_change(self) -> None:
        """Compares each cart in PostgreSQL with the acknowledged changes."""
        for cart in range(CARTS):
            read = await until(lambda number=cart: self._carts.stored(number))
            self._load.rules.changes.read(cart, lines_of(read))

    async def _sidecar(self, dataset: str, sidecar: int, read: Callable[[], Awaitable[Versions]], expected: Versions) -> None:
        """Reads until a sidecar shows what PostgreSQL holds, not marked stale."""
        while (found := await read()) != expected and time.monotonic() < self._deadline:
            await asyncio.sleep(0.2)
        for number, version in expected.items():
            if found.get(number) != version:
                self._load.rules.log.add(dataset, "last", sidecar=sidecar, key=number, shown=found.get(number), stored=version)

    async def _streams(self, expected: Mapping[str, Versions]) -> None:
        streams = self._load.rules.streams
        while time.monotonic() < self._deadline and not all(stream.is_complete(expected[stream.dataset]) for stream in streams):
            await asyncio.sleep(0.1)
        for stream in streams:
            stream.found_incomplete(expected[stream.dataset])
