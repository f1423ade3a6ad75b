"""Gates: a test closes one where an interleaving has to be held, and opens it when the rest is in place."""

import asyncio
from collections.abc import Mapping, Sequence

from cache_sidecar.tiers.path.batch import Batch


class Gate:
    """Open at first. Whoever comes while it is closed waits until it is opened."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        self._reached = asyncio.Event()
        self.waiting = 0

    def close(self) -> None:
        """Holds whoever comes from now on."""
        self._opened.clear()
        self._reached.clear()

    def open(self) -> None:
        """Lets everybody through."""
        self._opened.set()

    async def passed(self) -> None:
        """Returns when the gate is open."""
        if self._opened.is_set():
            return
        self.waiting += 1
        self._reached.set()
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1

    async def reached(self) -> None:
        """Returns when somebody waits; fails when nobody comes."""
        async with asyncio.timeout(10):
            await self._reached.wait()


class Loads:
    """A load that can be held, counts, and answers each id with its capitals; ids with a dash are not there."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = Gate()
        self.error: BaseException | None = None
        self.suffix = ""

    async def __call__(self, ids: Sequence[str]) -> Mapping[str, str]:
        self.calls.append(list(ids))
        suffix = self.suffix
        await self.gate.passed()
        if self.error is not None:
            raise self.error
        return {id: id.upper() + suffix for id in ids if "-" not in id}


def make_batch(
    loads: Loads, *, ids: int = 500, running: int = 4, waiting: int = 1000, after: Batch[str] | None = None
) -> Batch[str]:
    return Batch(loads, max_ids=ids, max_running=running, max_waiting=waiting, gather_from=after)


async def started(work: asyncio.Task[object], loads: Loads) -> None:
    """Returns when a load that `work` asked for is held."""
    await loads.gate.reached()
    assert not work.done()


async def turns(count: int) -> None:
    """Lets the event loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
