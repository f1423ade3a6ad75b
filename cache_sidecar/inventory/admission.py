"""The gate before PostgreSQL: refuses what is known to be sold out, and lets the rest through a few at a time. Never grants.

What it knows is what the caches hold of the stock: the state of a row as PostgreSQL committed it, the newest version told.
Every writer tells Redis before it replies, the relay tells what a writer could not; so a wrong refusal ends when that news
arrives. Calls that arrive together share one read of Redis, and that nothing is left is believed for a moment longer.
Without Redis they share a read of PostgreSQL, and a crowd costs it a few reads a second: who would be refused by the last one
waits for the next.

When a thousand callers want the last ten pieces, all of them are let in by what is known. So only a few per product go on at
once; the others wait in line, and when one comes back with "too little is left", those who want more than that are refused
where they stand.

    look_in -> SoldOut, in memory
    admit -> StockReader -> Redis, or PostgreSQL
          -> Line, one per product that somebody is reserving
    learn -> Line -> those who wait
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple
from uuid import UUID

from cache_sidecar.core.errors import DataLoss, OutOfStock, Overloaded
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.inventory.granted_requests import GrantedRequests
from cache_sidecar.inventory.sold_out import SoldOut
from cache_sidecar.inventory.stock import Bucket, ProductStock, StockReader
from cache_sidecar.tiers.ports import Freshness, Source

# Callers that reserve one product at once, and callers that may stand in lines altogether.
TURNS = 4
MAX_WAITING = 10_000
# Seconds between two reads of PostgreSQL for one product in place of Redis, and products for which that is minded.
PACE = 0.25
MAX_PACED = 10_000
_FROM_STORE = Freshness(bypass=True)


class StockSnapshot(NamedTuple):
    """What the rows of a product say, each as of one of its versions."""

    parts: Sequence[Bucket]

    @property
    def available(self) -> int:
        """Pieces that can be reserved."""
        return sum(part.stock.available for part in self.parts)

    @property
    def last_grants(self) -> list[tuple[str, int]]:
        """The number of the last grant of each row, with the row's id."""
        return [(part.id, part.stock.grant_version) for part in self.parts]

    def includes(self, parts: Iterable[Bucket]) -> bool:
        """Whether none of the rows is newer in `parts`."""
        versions = {part.id: part.version for part in self.parts}
        return all(versions.get(part.id, 0) >= part.version for part in parts)


class _Waiting(NamedTuple):
    quantity: int
    called: asyncio.Future[StockSnapshot | None]
    "None when it is the caller's turn, else why there will be none."


class WaitQueue:
    """Those who want one product."""

    def __init__(self, turns: int) -> None:
        self._free = turns
        self._turns = turns
        self._waiting: deque[_Waiting] = deque()
        self.news: StockSnapshot | None = None
        "What PostgreSQL said when it last refused somebody here."

    async def enter(self, quantity: int) -> StockSnapshot | None:
        """Waits for a turn and returns None, or returns what became known meanwhile: too little is left."""
        if self._free and not self._waiting:
            self._free -= 1
            return None
        waiting = _Waiting(quantity, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.called
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.called.cancelled() and waiting.called.result() is None:
                self.leave()
            raise

    def leave(self) -> None:
        """Ends a turn."""
        self._free += 1
        while self._waiting and self._free:
            waiting = self._waiting.popleft()
            if not waiting.called.done():
                self._free -= 1
                waiting.called.set_result(None)

    def learn(self, known: StockSnapshot) -> None:
        """Calls out those who want more than is left."""
        self.news = known
        for waiting in self._waiting:
            if waiting.quantity > known.available and not waiting.called.done():
                waiting.called.set_result(known)
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.called.done())

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in it."""
        return self._free == self._turns and not self._waiting


class ThrottledRead:
    """Reads of one product with a pause between them, while PostgreSQL is asked in place of Redis.

    The first read follows at once: it may have been no more than a missing key, and Redis knows by now.
    """

    def __init__(self, read: Callable[[], Awaitable[ProductStock]], last: ProductStock) -> None:
        self._read = read
        self._last = last
        self._next: asyncio.Task[ProductStock] | None = None
        self._not_before = 0.0
        self._is_outdated = False

    def learn(self, known: StockSnapshot) -> None:
        """Takes that there was less than somebody wanted, who was let through."""
        self._is_outdated = known.includes(self._last.parts)

    async def read(self, quantity: int) -> ProductStock:
        """Returns what the last read found if that is enough, or what the next one finds; errors as of the read.

        So who is let through may find less, and who is refused is refused by a read that began after he came.
        """
        loop = asyncio.get_running_loop()
        if self._last.available >= quantity and loop.time() < self._not_before and not self._is_outdated:
            return self._last
        if self._next is None:
            self._next = loop.create_task(self._read_next())
            self._next.add_done_callback(log_failure)
        # Shielded: one caller's cancellation must not take the result from the others.
        return await asyncio.shield(self._next)

    async def _read_next(self) -> ProductStock:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        self._next = None
        try:
            self._last = await self._read()
            self._is_outdated = False
        finally:
            self._not_before = loop.time() + PACE
        return self._last


class ReservationAdmission:
    """The gate of one inventory."""

    def __init__(
        self,
        stocks: StockReader,
        sold_out: SoldOut,
        grants: GrantedRequests,
        *,
        every_row: Callable[[str], str],
        turns: int = TURNS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`every_row` says what `grants` calls all rows that a product has or had."""
        if turns < 1 or max_waiting < 1:
            raise ValueError("turns and max_waiting must be at least 1")
        self._stocks = stocks
        self._sold_out = sold_out
        self._grants = grants
        self._every_row = every_row
        self._turns = turns
        self._max_waiting = max_waiting
        self._lines: dict[str, WaitQueue] = {}
        self._inside = 0
        self._paced: dict[str, ThrottledRead] = {}
        "Products that PostgreSQL was asked about in place of Redis."
        self.refused = 0
        "Callers that were refused without asking PostgreSQL to grant."

    async def look_in(self, items: Mapping[str, int], request_id: UUID) -> None:
        """Raises OutOfStock if nothing is left of the first product, as was read a moment ago; else errors as of `admit`."""
        product_id = next(iter(items))
        if parts := self._sold_out.parts(product_id):
            await self._refuse(product_id, StockSnapshot(parts), request_id)

    @asynccontextmanager
    async def admit(self, items: Mapping[str, int], request_id: UUID) -> AsyncIterator[Mapping[str, int]]:
        """Holds a turn for pieces of products, in ascending order; gives the number of buckets of each, as far as known.

        Raises OutOfStock, Overloaded, and TierFailed when neither Redis nor PostgreSQL answers. A product nobody knows is
        let through: PostgreSQL says that it has no stock. So is a request that was granted before.
        """
        if self._inside >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} reservations are being made")
        entered: list[str] = []
        self._inside += 1
        try:
            totals = await self._look(items)
            for product_id, quantity in items.items():
                total = totals[product_id]
                if total.parts and total.available < quantity:
                    await self._refuse(product_id, StockSnapshot(total.parts), request_id)
            for product_id, quantity in items.items():
                await self._enter(product_id, quantity, totals[product_id], request_id)
                entered.append(product_id)
            yield {product_id: total.buckets for product_id, total in totals.items()}
        finally:
            self._inside -= 1
            for product_id in entered:
                self._lines[product_id].leave()
            for product_id in items:
                if (line := self._lines.get(product_id)) is not None and line.is_empty:
                    del self._lines[product_id]

    def learn(self, product_id: str, parts: Sequence[Bucket]) -> None:
        """Takes what PostgreSQL said of a product when it refused: all of its rows, committed and locked at that moment."""
        if line := self._lines.get(product_id):
            line.learn(StockSnapshot(parts))
        if paced := self._paced.get(product_id):
            paced.learn(StockSnapshot(parts))

    async def _look(self, items: Mapping[str, int]) -> dict[str, ProductStock]:
        """Reads what is known of products, at a pace that PostgreSQL can bear."""
        paced = {product_id: self._paced[product_id] for product_id in items if product_id in self._paced}
        totals = await self._stocks.get_many([product_id for product_id in items if product_id not in paced])
        for product_id, total in totals.items():
            if (total.source is Source.STORE or total.stale) and product_id not in self._paced:
                if len(self._paced) >= MAX_PACED:
                    del self._paced[next(iter(self._paced))]
                self._paced[product_id] = ThrottledRead(partial(self._read, product_id), total)
            if total.stale:
                paced[product_id] = self._paced[product_id]
        # Together: one query reads what is asked for at the same time.
        found = await asyncio.gather(*(reads.read(items[product_id]) for product_id, reads in paced.items()))
        for product_id, total in zip(paced, found, strict=True):
            totals[product_id] = total
            if total.source is not Source.STORE:
                self._paced.pop(product_id, None)
        if unreadable := [product_id for product_id in items if product_id not in totals]:
            raise DataLoss("inventory", unreadable[0])
        return totals

    async def _read(self, product_id: str) -> ProductStock:
        """Reads what is known of a product, from PostgreSQL where the caches may not know of the last grants."""
        total = await self._stocks.get(product_id)
        return await self._stocks.get(product_id, _FROM_STORE) if total.stale else total

    async def _enter(self, product_id: str, quantity: int, total: ProductStock, request_id: UUID) -> None:
        line = self._lines.setdefault(product_id, WaitQueue(self._turns))
        known = line.news
        if known is None or known.available >= quantity or not known.includes(total.parts):
            known = await line.enter(quantity)
        if known is not None:
            await self._refuse(product_id, known, request_id)
            # It was granted before, and is to find its first reply. Nothing more is news to it.
            await self._enter(product_id, 0, total, request_id)

    async def _refuse(self, product_id: str, known: StockSnapshot, request_id: UUID) -> None:
        """Raises OutOfStock, unless the request may have been granted before.

        What it was granted may have been in a bucket that is gone, or that was deleted and made anew. All of that was before
        the epoch of the rows there are now.
        """
        before = self._every_row(product_id), known.parts[0].stock.epoch
        if not await self._grants.may_contain([before, *known.last_grants], request_id):
            self.refused += 1
            raise OutOfStock(product_id, known.available)
