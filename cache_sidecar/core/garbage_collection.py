"""The garbage collector: what is there for good is taken out of its sight, and its pauses are counted.

The interpreter, its modules and what a process builds when it starts are a few hundred thousand objects that never go away. A
full collection walks them all, 35 to 55 ms on the event loop's thread, and the calls in progress make it due several times a
second. Frozen (`gc.freeze`) they are not walked any more; what is left is the calls in progress.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from cache_sidecar.core.tasks import BackgroundTasks

# New objects that make a collection of the youngest due, and how often each generation waits for the one before it. Python's
# own 700, 10, 10 is for programs that hold less than a thousand calls do.
THRESHOLDS = (5_000, 10, 20)
# Seconds between two full collections that are made whether or not one is due.
EVERY = 60.0
GENERATIONS = 3


class Collections:
    """Counts collections, and how long the event loop stood still for one."""

    def __init__(self) -> None:
        self.counts = [0] * GENERATIONS
        "By generation; the last are the full ones."
        self.longest = [0.0] * GENERATIONS
        "Seconds."
        self._began = 0.0

    def start(self) -> None:
        """Counts from now on."""
        gc.callbacks.append(self._on_collection)

    def stop(self) -> None:
        """Counts no more, if it did."""
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
    """Collects what is garbage, and has no collection look at the rest again."""
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def short_pauses() -> AsyncIterator[None]:
    """Keeps collections short in a process that has started and now serves, until it ends."""
    gc.set_threshold(*THRESHOLDS)
    freeze()
    background = BackgroundTasks()
    background.start(_collect())
    try:
        yield
    finally:
        await background.stop()


async def _collect() -> None:
    await asyncio.sleep(EVERY)
    # Once more, and not again: by now the first calls have loaded what is loaded late (modules, compiled validation rules).
    # Each time it freezes the calls in progress, too, and a cycle among those would never be collected.
    freeze()
    while True:
        await asyncio.sleep(EVERY)
        gc.collect()
