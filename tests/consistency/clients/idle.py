"""Clients that call an idle sidecar, whose view of the cluster may be out of date."""

import asyncio
import random
from contextlib import suppress

from tests.consistency.clients.carts import CartClient
from tests.consistency.clients.products import ProductClient
from tests.consistency.clients.sessions import SessionClient
from tests.consistency.clients.stock import STOCK, StockClient
from tests.consistency.load import Load
from tests.consistency.rulebook import CARTS

# Seconds between two visits, from and to, if nobody asks for one.
EVERY = (8.0, 20.0)
# Sessions that a visit asks about, and carts.
SESSIONS, SOME_CARTS = 40, 16


class Visitor:
    """Calls an idle sidecar for everything at once, now and then."""

    def __init__(
        self,
        load: Load,
        sidecar: int,
        chance: random.Random,
        *,
        products: ProductClient,
        sessions: SessionClient,
        carts: CartClient,
        stock: StockClient,
    ) -> None:
        self._load = load
        self._sidecar = sidecar
        self._chance = chance
        self._products = products
        self._sessions = sessions
        self._carts = carts
        self._stock = stock

    async def run(self) -> None:
        """Visits until it is stopped."""
        load = self._load
        while not load.is_stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(load.visits.wait(), self._chance.uniform(*EVERY))
            await self._visit()
            await asyncio.sleep(0.05)

    async def _visit(self) -> None:
        recent = list(self._load.sessions)
        await asyncio.gather(
            self._products.read_some(),
            self._stock.read(range(len(STOCK)), self._sidecar),
            *(self._carts.read(cart, self._sidecar) for cart in self._chance.sample(range(CARTS), SOME_CARTS)),
            *(self._sessions.use(id, self._sidecar) for id in self._chance.sample(recent, min(len(recent), SESSIONS))),
        )
