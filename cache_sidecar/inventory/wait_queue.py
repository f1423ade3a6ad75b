"""The queue of callers that want to reserve one product: a few have a turn at once, the others wait."""

import asyncio
from collections import deque
from typing import NamedTuple

from cache_sidecar.inventory.stock import ProductStock


class _Waiting(NamedTuple):
    quantity: int
    outcome: asyncio.Future[ProductStock | None]
    "None when it is the caller's turn, else the inventory that has too little."


class WaitQueue:
    """Callers of one product, in the order of their arrival."""

    def __init__(self, turns: int) -> None:
        self._free = turns
        self._turns = turns
        self._waiting: deque[_Waiting] = deque()
        self.last_shortage: ProductStock | None = None
        "The inventory as PostgreSQL had it when it last refused one of the callers."

    async def enter(self, quantity: int) -> ProductStock | None:
        """Waits for a turn and returns None; or returns the inventory as soon as it is known to have less than `quantity`."""
        if self._free and not self._waiting:
            self._free -= 1
            return None
        waiting = _Waiting(quantity, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.outcome
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.outcome.cancelled() and waiting.outcome.result() is None:
                # The turn was given, then the caller was cancelled before it ran: without this, the turn would be lost.
                self.leave()
            raise

    def leave(self) -> None:
        """Ends a turn, and gives it to the next caller."""
        self._free += 1
        while self._waiting and self._free:
            waiting = self._waiting.popleft()
            if not waiting.outcome.done():
                self._free -= 1
                waiting.outcome.set_result(None)

    def note_shortage(self, stock: ProductStock) -> None:
        """Dismisses the waiting callers who want more than is available."""
        self.last_shortage = stock
        for waiting in self._waiting:
            if waiting.quantity > stock.available and not waiting.outcome.done():
                waiting.outcome.set_result(stock)
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.outcome.done())

    @property
    def is_empty(self) -> bool:
        """Whether no caller has a turn or waits for one."""
        return self._free == self._turns and not self._waiting
