"""Coalescing: one load per id however many callers wait for it, and one query for all ids that are missed together.

The idea is DataLoader's (Facebook, 2010), with groupcache's singleflight per key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from cache_sidecar.core import tracing
from cache_sidecar.core.errors import Overloaded, SidecarError
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.tracing import Span

V = TypeVar("V")

# A batch that gathers takes FEW ids or more for a burst. Ids wait for what delays a burst for HOLD seconds at most: a load that
# hangs holds up nobody for longer.
FEW = 8
HOLD = 0.05


class Batch(Generic[V]):
    """Collects ids and loads them together; every caller of an id gets the one result.

    An id goes out in the next turn of the event loop, together with all ids asked for in this one, as long as loads may run.
    What comes meanwhile waits for one of them to end, and goes out together.

    A batch may gather from another one, whose callers come here with what they did not find there. Then a few ids do not wait,
    and several loads may run, as long as they are small; but in a burst the queries grow instead of multiplying. It waits for
    the load under way, and for the callers that were at the source when its first id came here, or the last load ended; if it
    has doubled by then, for those that are there now, too.
    Nothing looks at a clock for that: the end of a load, and each caller who leaves the source, have what waits looked at.
    """

    def __init__(
        self,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]],
        *,
        max_ids: int,
        max_running: int,
        max_waiting: int,
        gather_from: "Batch[V] | None" = None,
        name: str = "load",
    ) -> None:
        """`max_ids` are loaded at once, `max_running` loads run at the same time, `max_waiting` ids may wait for one.

        `name` is that of a load's span.
        """
        if max_ids < 1 or max_running < 1 or max_waiting < 1:
            raise ValueError("max_ids, max_running and max_waiting must be at least 1")
        self._load = load
        self._max_ids = max_ids
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._gather_from = gather_from
        if gather_from is not None:
            gather_from.on_left.append(self._look_again)
        self.on_left: list[Callable[[], None]] = []
        "What is called when a caller has left."
        self._name = name
        self.waiting: dict[str, asyncio.Future[V | None]] = {}
        "The ids that no load has taken yet."
        self._in_flight: dict[str, asyncio.Future[V | None]] = {}
        "The ids that are being loaded, as far as later callers may join."
        self._askers: dict[str, list[Span]] = {}
        "The spans of those who ask for the ids that wait, as far as they are traced."
        self._spans: WeakKeyDictionary[asyncio.Future[V | None], Span] = WeakKeyDictionary()
        "The spans of the loads that results come from."
        self._tasks = BackgroundTasks()
        self._is_flush_scheduled = False
        self.entered = 0
        self.left = 0
        "Callers that came in, and that went on with their results."
        self._expected = 0
        self._gathered = 0
        "Callers that have to leave `gather_from` before a burst goes out, and the ids that waited when that was set."
        self._hold: asyncio.TimerHandle | None = None
        "Ends a wait that takes long."
        self._loading = 0
        "The ids that are being loaded, those that later callers do not join included."
        self.loads = 0
        self.batches = 0
        "Loads that went out together."
        self.coalesced = 0

    async def get(self, ids: Iterable[str], *, fresh: bool = False, until: float | None = None) -> dict[str, V]:
        """Returns the results by id, without the ids that the load left out. With `fresh`, loads under way are not joined.

        Raises Overloaded when too many ids wait, TimeoutError when it takes longer than `until`, in the event loop's time, and
        whatever the load raises.
        """
        if until is not None:
            # The load goes on: others may wait for it, with more time.
            async with asyncio.timeout_at(until):
                return await self.get(ids, fresh=fresh)
        self.entered += 1
        shared = self.coalesced
        try:
            futures = {id: self._join(id, fresh) for id in ids}
            if (asker := tracing.current()) is not None:
                await self._trace_wait(asker, futures, is_shared=self.coalesced > shared)
            for future in futures.values():
                if not future.done():
                    # Shielded: one caller's cancellation must not take the result from the others.
                    await asyncio.shield(future)
        finally:
            self.left += 1
            for look in self.on_left:
                look()
        return {id: value for id, future in futures.items() if (value := future.result()) is not None}

    async def _trace_wait(self, asker: Span, futures: Mapping[str, asyncio.Future[V | None]], *, is_shared: bool) -> None:
        """Has loads refer to the span of who asks for them, and waits with a span of its own if others have asked before."""
        for id in futures:
            if id in self.waiting:
                self._askers.setdefault(id, []).append(asker)
        if not is_shared:
            return
        with tracing.within(f"wait for {self._name}") as span:
            await asyncio.wait(futures.values())
            for load in dict.fromkeys(self._spans[future] for future in futures.values() if future in self._spans):
                if span is not None:
                    span.link(load)

    def _join(self, id: str, fresh: bool) -> asyncio.Future[V | None]:
        """Returns the future of an id: of a load that may be joined, or else of the next one."""
        future = self.waiting.get(id)
        if future is None and not fresh:
            future = self._in_flight.get(id)
        if future is not None:
            self.coalesced += 1
            return future
        if len(self.waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} ids wait to be loaded")
        loop = asyncio.get_running_loop()
        if not self.waiting:
            self._expect()
        future = self.waiting[id] = loop.create_future()
        self._schedule_flush(loop)
        return future

    def _schedule_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.waiting and not self._is_flush_scheduled and len(self._tasks.running) < self._max_running:
            self._is_flush_scheduled = True
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop, *, holds: bool = True) -> None:
        """Loads what is waiting, as far as loads may run; with `holds`, it may have to wait for the end of one."""
        self._is_flush_scheduled = False
        while self.waiting and len(self._tasks.running) < self._max_running:
            if holds and self._gather_from is not None and self._may_grow(self._gather_from):
                if self._hold is None:  # counted from the first of those that wait: more may come all the time
                    self._hold = loop.call_later(HOLD, partial(self._flush, loop, holds=False))
                return
            batch = {id: self.waiting.pop(id) for id in list(islice(self.waiting, self._max_ids))}
            self._in_flight.update(batch)
            self._loading += len(batch)
            self._tasks.spawn(self._run(batch)).add_done_callback(partial(self._on_load_ended, len(batch)))
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _expect(self) -> None:
        if self._gather_from is not None:
            self._expected, self._gathered = self._gather_from.entered, len(self.waiting)

    def _look_again(self) -> None:
        """A caller has left the source, and may come here in this turn of the event loop."""
        if self.waiting and self._gather_from is not None and self._gather_from.left >= self._expected:
            self._schedule_flush(asyncio.get_running_loop())

    def _may_grow(self, source: "Batch[V]") -> bool:
        """Whether what is waiting belongs to a burst of which more may come."""
        if len(self.waiting) >= self._max_ids:
            return False
        if self._loading >= FEW:
            return True
        if len(self.waiting) < FEW or source.left == source.entered:
            return False
        self._gathered = self._gathered or len(self.waiting)  # of the first turn
        if source.left >= self._expected and len(self.waiting) >= 2 * self._gathered:
            self._expect()
        return source.left < self._expected

    async def _run(self, batch: dict[str, asyncio.Future[V | None]]) -> None:
        self.loads += len(batch)
        self.batches += 1
        try:
            results = await self._trace_load(batch)
        except BaseException as error:  # whatever it is, it is the callers' to handle
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # or asyncio warns when all callers have left
            if not isinstance(error, SidecarError):
                raise  # a defect, to be logged even if all callers have left; or the end of the process
        else:
            for id, future in batch.items():
                if not future.done():
                    future.set_result(results.get(id))
        finally:
            for id, future in batch.items():
                # After `forget_in_flight`, a later load of the same id may be in flight: that one stays.
                if self._in_flight.get(id) is future:
                    del self._in_flight[id]

    async def _trace_load(self, batch: dict[str, asyncio.Future[V | None]]) -> Mapping[str, V]:
        """Loads, with a span if one of those who wait is traced."""
        askers = dict.fromkeys(asker for id in batch for asker in self._askers.pop(id, ())) if self._askers else {}
        with tracing.sharing(self._name, list(askers), {"cache_sidecar.ids": len(batch)}) as span:
            if span is not None:
                self._spans.update(dict.fromkeys(batch.values(), span))
            return await self._load(list(batch))

    def _on_load_ended(self, ids: int, task: asyncio.Task[None]) -> None:
        self._loading -= ids
        self._expect()
        self._schedule_flush(task.get_loop())

    def forget_in_flight(self, id: str) -> None:
        """Has later callers of an id start a load of their own: what is being loaded may already be out of date."""
        self._in_flight.pop(id, None)

    def forget_all_in_flight(self) -> None:
        """Has later callers of any id start a load of their own."""
        self._in_flight.clear()

    async def close(self) -> None:
        """Waits for the loads under way, and for those that follow them."""
        while self._tasks.running or self.waiting:
            self._flush(asyncio.get_running_loop(), holds=False)
            await self._tasks.join()
