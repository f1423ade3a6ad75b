"""Coalescing: one load per id however many callers wait for it, and one query for all ids that are missed together.

The idea is DataLoader's (Facebook, 2010), with groupcache's singleflight per key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from cache_sidecar.errors import Overloaded

V = TypeVar("V")

# While loads are under way, a batch collects until no id came for QUIET seconds, or for LONGEST seconds altogether.
QUIET = 0.001
LONGEST = 0.05


class Batch(Generic[V]):
    """Collects ids and loads them together; every caller of an id gets the one result.

    A lone id goes out in the next tick of the event loop, together with all ids asked for in this one. With `gather`, ids
    that come while a load is under way wait until the burst pauses: its queries grow instead of multiplying.
    """

    def __init__(
        self,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]],
        *,
        max_ids: int,
        max_running: int,
        max_waiting: int,
        gather: bool = False,
    ) -> None:
        if max_ids < 1 or max_running < 1 or max_waiting < 1:
            raise ValueError("max_ids, max_running and max_waiting must be at least 1")
        self._load = load
        self._max_ids = max_ids
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._gather = gather
        self._waiting: dict[str, asyncio.Future[V | None]] = {}
        self._in_flight: dict[str, asyncio.Future[V | None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._last_id = 0.0
        self._last_end = 0.0
        self.loads = 0
        self.coalesced = 0

    async def get(self, ids: Iterable[str], *, fresh: bool = False) -> dict[str, V]:
        """Returns the results by id; ids that the load left out are left out. With `fresh`, loads under way are not joined.

        Raises Overloaded when too many ids wait, and whatever the load raises.
        """
        futures = {id: self._future(id, fresh) for id in ids}
        for future in futures.values():
            if not future.done():
                # Shielded: one caller's cancellation must not take the result from the others.
                await asyncio.shield(future)
        return {id: value for id, future in futures.items() if (value := future.result()) is not None}

    def detach(self, id: str) -> None:
        """Makes later callers of an id start a load of their own: what is being loaded may already be out of date."""
        self._in_flight.pop(id, None)

    async def close(self) -> None:
        """Waits for the loads under way."""
        await asyncio.gather(*self._running, return_exceptions=True)

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
        self._last_id = loop.time()
        self._schedule(loop)
        return future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._flush_due or len(self._running) >= self._max_running:
            return
        self._flush_due = True
        now = loop.time()
        if self._gather and (self._running or now - self._last_end < QUIET):
            loop.call_later(QUIET, self._flush_when_quiet, loop, now + LONGEST)
        else:
            loop.call_soon(self._flush, loop)

    def _flush_when_quiet(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        now = loop.time()
        pause = QUIET - (now - self._last_id)
        if pause > 0 and now < until and len(self._waiting) < self._max_ids:
            loop.call_later(pause, self._flush_when_quiet, loop, until)
        else:
            self._flush(loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_due = False
        while self._waiting and len(self._running) < self._max_running:
            ids = list(self._waiting)[: self._max_ids]
            batch = {id: self._waiting.pop(id) for id in ids}
            self._in_flight.update(batch)
            task = loop.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    async def _run(self, batch: dict[str, asyncio.Future[V | None]]) -> None:
        self.loads += len(batch)
        try:
            results = await self._load(list(batch))
        except BaseException as error:  # whatever it is, it is the callers' to handle
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # a load whose callers all left is not worth a warning
            if not isinstance(error, Exception):
                raise
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
        loop = task.get_loop()
        self._last_end = loop.time()
        if self._waiting:
            self._schedule(loop)
