"""Gates: a test closes one to hold an operation at a point, and opens it once everything else is in place."""

import asyncio
from collections.abc import Mapping, Sequence

from cache_sidecar.tiers.path.batch import Batch


class Gate:
    """A gate, open at first. Tasks that pass while it is closed wait until it is opened."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        self._reached = asyncio.Event()
        self.waiting = 0

    def close(self) -> None:
        """Closes it."""
        self._opened.clear()
        self._reached.clear()

    def open(self) -> None:
        """Opens it for all that wait, and for those that come."""
        self._opened.set()

    async def passed(self) -> None:
        """Waits until the gate is open."""
        if self._opened.is_set():
            return
        self.waiting += 1
        self._reached.set()
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1

    async def reached(self) -> None:
        """Waits until a task waits at the gate; fails if none comes."""
        async with asyncio.timeout(10):
            await self._reached.wait()


class Loads:
    """A loader with a gate that counts its calls. It returns each id in capitals; ids with a dash do not exist."""

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
    """Waits until a load that `work` started is held at the gate."""
    await loads.gate.reached()
    assert not work.done()


async def turns(count: int) -> None:
    """Runs the event loop that many times."""
    for _ in range(count):
        await asyncio.sleep(0)
