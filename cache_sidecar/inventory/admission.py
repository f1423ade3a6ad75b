"""Admission of reservations in front of PostgreSQL: refuses what is known to be sold out, and lets a few callers in at a time.

It only ever refuses. PostgreSQL alone grants, so a caller who is let in by mistake costs a transaction, and one who is refused
by mistake costs a sale. A refusal is therefore based on a state that PostgreSQL committed, and is as old as the copy of it that
the caches hold: writers update Redis before they reply, and the relay publishes what a writer could not.

Three questions, from cheap to expensive (`ReservationAdmission.admit` reads in the same order):

    1. Was it sold out a few milliseconds ago?          memory: SoldOut
    2. Is there enough by what the caches hold?         Redis, or, throttled, PostgreSQL: StockReader, ThrottledRead
    3. Is it this caller's turn?                        one WaitQueue per product

The third one is for a thousand callers who want the last ten pieces: all of them pass the second. A few per product go on, the
others wait, and when PostgreSQL refuses one, all who want more than is left are refused without asking it.

A repeat of a request that was granted must get its first reply, even when nothing is left. So before any refusal
GrantedRequests is asked whether the request may have been granted.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

from cache_sidecar.core.errors import DataLoss, OutOfStock, Overloaded
from cache_sidecar.inventory.granted_requests import GrantedRequests
from cache_sidecar.inventory.sold_out import SoldOut
from cache_sidecar.inventory.stock import Bucket, ProductStock, StockReader
from cache_sidecar.inventory.throttled_read import ThrottledRead
from cache_sidecar.inventory.wait_queue import WaitQueue
from cache_sidecar.tiers.ports import Freshness, Source

# Callers that reserve one product at once, and callers that may be admitted or wait altogether.
TURNS = 4
MAX_WAITING = 10_000
# Products whose reads from PostgreSQL are throttled.
MAX_THROTTLED = 10_000
# Who refuses to sell more than there is: these two, an adjustment's own look at the rows, and a CHECK of the table.
BY_ADMISSION, BY_POSTGRES, BY_ADJUSTMENT, BY_CHECK = "admission", "reservation", "adjustment", "check"
_FROM_STORE = Freshness(bypass=True)


class ReservationAdmission:
    """Admits reservations of one inventory."""

    def __init__(
        self,
        stocks: StockReader,
        sold_out: SoldOut,
        grants: GrantedRequests,
        *,
        every_row: Callable[[str], str],
        oversells: Counter[str] | None = None,
        turns: int = TURNS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`every_row` returns the id by which `grants` knows all rows that a product has or had.

        `oversells` counts the callers who want more than there is, by who refused them.
        """
        if turns < 1 or max_waiting < 1:
            raise ValueError("turns and max_waiting must be at least 1")
        self._stocks = stocks
        self._sold_out = sold_out
        self._grants = grants
        self._every_row = every_row
        self._turns = turns
        self._max_waiting = max_waiting
        self._queues: dict[str, WaitQueue] = {}
        self._inside = 0
        self._throttled: dict[str, ThrottledRead] = {}
        "Products that are read from PostgreSQL in place of Redis."
        self.refused = 0
        "Callers that were refused without asking PostgreSQL to grant."
        self._oversells = oversells if oversells is not None else Counter()

    @asynccontextmanager
    async def admit(self, items: Mapping[str, int], request_id: UUID) -> AsyncIterator[Mapping[str, int]]:
        """Holds a turn for each product, in ascending order; yields the number of buckets of each, as far as known.

        Raises OutOfStock, Overloaded, and TierFailed when neither Redis nor PostgreSQL answers. Unknown products are let
        through: PostgreSQL reports that they have no inventory.
        """
        first = next(iter(items))
        if parts := self._sold_out.parts(first):
            await self._refuse(first, ProductStock(parts, ()), request_id)
        if self._inside >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} reservations are being made")
        self._inside += 1
        has_turn: list[str] = []
        try:
            stocks = await self._read(items)
            for product_id, quantity in items.items():
                if stocks[product_id].parts and stocks[product_id].available < quantity:
                    await self._refuse(product_id, stocks[product_id], request_id)
            # Two callers of the same products take their turns in the same order, so neither waits for the other.
            for product_id, quantity in items.items():
                await self._take_turn(product_id, quantity, stocks[product_id], request_id)
                has_turn.append(product_id)
            yield {product_id: stock.buckets for product_id, stock in stocks.items()}
        finally:
            self._inside -= 1
            for product_id in has_turn:
                self._queues[product_id].leave()
            for product_id in items:
                if (queue := self._queues.get(product_id)) is not None and queue.is_empty:
                    del self._queues[product_id]

    def note_shortage(self, product_id: str, parts: Sequence[Bucket]) -> None:
        """Notes that PostgreSQL refused an admitted caller: all rows of the product, as committed and locked at that moment."""
        self._oversells[BY_POSTGRES] += 1
        stock = ProductStock(parts, ())
        if queue := self._queues.get(product_id):
            queue.note_shortage(stock)
        if throttled := self._throttled.get(product_id):
            throttled.note_shortage(stock)

    async def _read(self, items: Mapping[str, int]) -> dict[str, ProductStock]:
        """Reads the inventory of products through the caches; from PostgreSQL, throttled, where these do not have it."""
        throttled = {product_id: self._throttled[product_id] for product_id in items if product_id in self._throttled}
        stocks = await self._stocks.get_many([product_id for product_id in items if product_id not in throttled])
        for product_id, stock in stocks.items():
            if stock.stale or stock.source is Source.STORE:
                reads = self._throttle(product_id, stock)
                if stock.stale:
                    # Redis is told of changes too late: refusing by what it has would be wrong for as long as that lasts.
                    throttled[product_id] = reads
        if throttled:
            # Together: reads at the same time share one query.
            found = await asyncio.gather(*(reads.read(items[product_id]) for product_id, reads in throttled.items()))
            for product_id, stock in zip(throttled, found, strict=True):
                stocks[product_id] = stock
                if stock.source is not Source.STORE:
                    self._throttled.pop(product_id, None)
        if unreadable := [product_id for product_id in items if product_id not in stocks]:
            raise DataLoss("inventory", unreadable[0])
        return stocks

    def _throttle(self, product_id: str, stock: ProductStock) -> ThrottledRead:
        if product_id not in self._throttled:
            if len(self._throttled) >= MAX_THROTTLED:
                del self._throttled[next(iter(self._throttled))]
            self._throttled[product_id] = ThrottledRead(partial(self._read_fresh, product_id), stock)
        return self._throttled[product_id]

    async def _read_fresh(self, product_id: str) -> ProductStock:
        """Reads a product through the caches, and from PostgreSQL where these may not know of the last grants."""
        stock = await self._stocks.get(product_id)
        return await self._stocks.get(product_id, _FROM_STORE) if stock.stale else stock

    async def _take_turn(self, product_id: str, quantity: int, stock: ProductStock, request_id: UUID) -> None:
        """Waits for a turn. Raises OutOfStock once PostgreSQL refused another caller and less than `quantity` is left."""
        queue = self._queues.setdefault(product_id, WaitQueue(self._turns))
        shortage = queue.last_shortage
        # One that is older than what was just read does not count: pieces may have been given back since.
        if shortage is None or shortage.available >= quantity or not shortage.includes(stock.parts):
            shortage = await queue.enter(quantity)
        if shortage is None:
            return
        await self._refuse(product_id, shortage, request_id)
        # A repeat, which will find its first reply: it waits as if for no pieces, which no shortage can refuse. The queue may
        # have been empty meanwhile, and be another one.
        await self._queues.setdefault(product_id, WaitQueue(self._turns)).enter(0)

    async def _refuse(self, product_id: str, stock: ProductStock, request_id: UUID) -> None:
        """Raises OutOfStock, unless the request may have been granted before.

        It may have been granted pieces of a bucket that is gone by now, or was deleted and created again. All of that was
        before the epoch of the present rows.
        """
        before = self._every_row(product_id), stock.parts[0].stock.epoch
        last_grants = [(part.id, part.stock.grant_version) for part in stock.parts]
        if not await self._grants.may_contain([before, *last_grants], request_id):
            self.refused += 1
            self._oversells[BY_ADMISSION] += 1
            raise OutOfStock(product_id, stock.available)
