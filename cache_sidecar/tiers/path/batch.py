"""Coalescing: one load per id however many callers wait for it, and one query for all ids that are missed together.

The idea is DataLoader's (Facebook, 2010), with groupcache's singleflight per key.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from cache_sidecar.core.errors import Overloaded, SidecarError
from cache_sidecar.core.tasks import log_failure

V = TypeVar("V")

# A batch that gathers looks every LOOK seconds whether to go out, and does so after LONGEST seconds at the latest. It lets a
# load under way end, for HOLD seconds; and a burst: BURST ids that came within PAUSE seconds, or half of the time it gathered.
LOOK = 0.001
LONGEST = 0.25
HOLD = 0.02
BURST = 8
PAUSE = 0.005


class Batch(Generic[V]):
    """Collects ids and loads them together; every caller of an id gets the one result.

    A lone id goes out in the next tick of the event loop, together with all ids asked for in this one. A batch that gathers
    from another, whose callers come here with what they did not find there, waits for those of them that are still there, and
    for the burst to pause: its queries grow instead of multiplying.
    """

    def __init__(
        self,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]],
        *,
        max_ids: int,
        max_running: int,
        max_waiting: int,
        gather_from: "Batch[V] | None" = None,
    ) -> None:
        if max_ids < 1 or max_running < 1 or max_waiting < 1:
            raise ValueError("max_ids, max_running and max_waiting must be at least 1")
        self._load = load
        self._max_ids = max_ids
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._gather_from = gather_from
        self._waiting: dict[str, asyncio.Future[V | None]] = {}
        self._in_flight: dict[str, asyncio.Future[V | None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._entered = 0
        self.left = 0
        "Callers that came in, and that went on with their results."
        self._expected = 0
        "Callers of the batch gathered from that had come in when the last id came here: any of them may bring another."
        self._arrivals = deque([-math.inf] * BURST, maxlen=BURST)
        "When the last ids came."
        self.loads = 0
        self.coalesced = 0

    async def get(self, ids: Iterable[str], *, fresh: bool = False, until: float | None = None) -> dict[str, V]:
        """Returns the results by id; ids that the load left out are left out. With `fresh`, loads under way are not joined.

        Raises Overloaded when too many ids wait, TimeoutError when it takes longer than `until`, in the event loop's time, and
        whatever the load raises.
        """
        if until is not None:
            # One caller's hurry is not the others': the load goes on.
            async with asyncio.timeout_at(until):
                return await self.get(ids, fresh=fresh)
        self._entered += 1
        try:
            futures = {id: self._future(id, fresh) for id in ids}
            for future in futures.values():
                if not future.done():
                    # Shielded: one caller's cancellation must not take the result from the others.
                    await asyncio.shield(future)
        finally:
            self.left += 1
        return {id: value for id, future in futures.items() if (value := future.result()) is not None}

    def detach(self, id: str) -> None:
        """Makes later callers of an id start a load of their own: what is being loaded may already be out of date."""
        self._in_flight.pop(id, None)

    def detach_all(self) -> None:
        """Makes later callers of any id start a load of their own."""
        self._in_flight.clear()

    async def close(self) -> None:
        """Waits for the loads under way, and for those that follow them."""
        while self._running or self._waiting:
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(LOOK)

    def _future(self, id: str, fresh: bool) -> asyncio.Future[V | None]:
        future = self._waiting.get(id)
        if future is None and not fresh:
            future = self._in_flight.get(id)
        if future is not None:
            self.coalesced += 1
            return future
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} ids wait to be loaded")
        loop = asyncio.get_running_loop()
        future = self._waiting[id] = loop.create_future()
        self._arrivals.append(loop.time())
        if self._gather_from is not None:
            self._expected = self._gather_from._entered  # noqa: SLF001  # of the same class
        self._schedule(loop)
        return future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._flush_due or len(self._running) >= self._max_running:
            return
        self._flush_due = True
        loop.call_soon(self._flush_when_gathered, loop, loop.time())

    def _flush_when_gathered(self, loop: asyncio.AbstractEventLoop, since: float) -> None:
        if self._gather_from is None or self._is_gathered(self._gather_from, since, loop.time()):
            self._flush(loop)
        else:
            loop.call_later(LOOK, self._flush_when_gathered, loop, since)

    def _is_gathered(self, source: "Batch[V]", since: float, now: float) -> bool:
        if len(self._waiting) >= self._max_ids or now - since >= LONGEST:
            return True
        if source.left < self._expected or (self._running and now - since < HOLD):
            return False
        # A burst that took long to come this far is one on a busy machine: its ids are farther apart, too.
        return now - self._arrivals[0] >= max(PAUSE, (now - since) / 2)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_due = False
        while self._waiting and len(self._running) < self._max_running:
            ids = list(islice(self._waiting, self._max_ids))
            batch = {id: self._waiting.pop(id) for id in ids}
            self._in_flight.update(batch)
            task = loop.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)
            task.add_done_callback(log_failure)

    async def _run(self, batch: dict[str, asyncio.Future[V | None]]) -> None:
        self.loads += len(batch)
        try:
            results = await self._load(list(batch))
        except BaseException as error:  # whatever it is, it is the callers' to handle
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # a load whose callers all left is not worth a warning
            if not isinstance(error, SidecarError):
                raise  # a defect, or the end of the process: whoever asked may have left
        else:
            for id, future in batch.items():
                if not future.done():
                    future.set_result(results.get(id))
        finally:
            for id, future in batch.items():
                if self._in_flight.get(id) is future:
                    del self._in_flight[id]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting:
            self._schedule(task.get_loop())
