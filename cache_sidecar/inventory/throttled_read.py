"""Reads of one product from PostgreSQL in place of Redis, a few a second however many callers there are."""

import asyncio
from collections.abc import Awaitable, Callable

from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.inventory.stock import ProductStock

# Seconds between two reads of one product.
INTERVAL = 0.25


class ThrottledRead:
    """Reads of one product, `INTERVAL` apart.

    The first one is not delayed: the key may merely have been missing, and be in Redis by now.
    """

    def __init__(self, read: Callable[[], Awaitable[ProductStock]], last: ProductStock) -> None:
        self._read = read
        self._last = last
        self._tasks = BackgroundTasks()
        self._next: asyncio.Task[ProductStock] | None = None
        self._not_before = 0.0
        self._is_outdated = False

    def note_shortage(self, stock: ProductStock) -> None:
        """Notes that a caller who was let through was refused: PostgreSQL had `stock`."""
        self._is_outdated = stock.includes(self._last.parts)

    async def read(self, quantity: int) -> ProductStock:
        """Returns the last result if it has `quantity` pieces, else the next one; errors as of the read.

        So a caller who is let through may find less, but one who is refused is refused by a read that began after it came.
        """
        loop = asyncio.get_running_loop()
        if self._last.available >= quantity and loop.time() < self._not_before and not self._is_outdated:
            return self._last
        if self._next is None:
            self._next = self._tasks.spawn(self._read_next())
        # Shielded: one caller's cancellation must not take the result from the others.
        return await asyncio.shield(self._next)

    async def _read_next(self) -> ProductStock:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        # From here on callers wait for another read: this one may miss pieces that were given back before they came.
        self._next = None
        try:
            self._last = await self._read()
            self._is_outdated = False
        finally:
            self._not_before = loop.time() + INTERVAL
        return self._last
