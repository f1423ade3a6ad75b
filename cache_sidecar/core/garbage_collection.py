"""The garbage collector: permanent objects are frozen out of it, and its pauses are measured.

The interpreter, its modules and what a process builds at its start are a few hundred thousand objects that live until its
end. A full collection walks them all, 35 to 55 ms on the event loop's thread, and calls in progress trigger it several times a
second. Frozen (`gc.freeze`), they are skipped; only the calls in progress are left to walk.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from cache_sidecar.core.tasks import BackgroundTasks, poll

# How many new objects trigger a collection of the youngest generation, and how many collections of one generation a collection
# of the next. Python's default of 700, 10, 10 suits programs with fewer objects than a thousand calls in progress hold.
THRESHOLDS = (5_000, 10, 20)
# Seconds between two full collections that run whether or not one is due.
EVERY = 60.0
GENERATIONS = 3


class Collections:
    """Counts collections, and measures how long they blocked the event loop."""

    def __init__(self) -> None:
        self.counts = [0] * GENERATIONS
        "By generation; the last one is that of full collections."
        self.longest = [0.0] * GENERATIONS
        "The longest pause by generation, in seconds."
        self._began = 0.0

    def start(self) -> None:
        """Starts counting."""
        gc.callbacks.append(self._on_collection)

    def stop(self) -> None:
        """Stops counting; without effect if it was not started."""
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        generation = info["generation"]
        self.counts[generation] += 1
        self.longest[generation] = max(self.longest[generation], time.perf_counter() - self._began)


def freeze() -> None:
    """Collects garbage, and exempts all remaining objects from later collections."""
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def short_pauses() -> AsyncIterator[None]:
    """Keeps collections short while a process serves; to be entered when it has started."""
    gc.set_threshold(*THRESHOLDS)
    freeze()
    background = BackgroundTasks()
    background.spawn(_collect())
    try:
        yield
    finally:
        await background.stop()


async def _collect() -> None:
    await asyncio.sleep(EVERY)
    # Once more, as the first calls have loaded what is loaded late (modules, compiled validation rules). Not every time: it
    # freezes the calls in progress, too, and reference cycles among those would never be collected.
    freeze()
    await poll(EVERY, gc.collect, delay=EVERY)
