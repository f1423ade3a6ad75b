"""Checks the dependencies in the background: once at the start, which does not wait for them, and while one of them fails."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Overloaded, TierFailed

# Seconds between two rounds while something fails: the first pause, the longest, and the factor between two pauses.
FIRST, LONGEST, GROWTH = 1.0, 10.0, 1.5

Check = Callable[[float], Awaitable[None]]
"""Checks something and reports to its dependency; gets the monotonic time of its start. Raises TierFailed, Overloaded."""


class Checks:
    """The checks of a process."""

    def __init__(self, dependencies: Dependencies, checks: Sequence[Check]) -> None:
        self._dependencies = dependencies
        self._checks = checks

    async def run(self) -> None:
        """Checks until cancelled."""
        pause = FIRST
        while True:
            self._dependencies.something_failed.clear()
            await asyncio.gather(*map(self._run, self._checks))
            if not self._dependencies.failing():
                pause = FIRST
                await self._dependencies.something_failed.wait()
                continue
            try:
                await asyncio.wait_for(self._dependencies.something_failed.wait(), pause)
                pause = FIRST
                # A dependency that keeps failing and recovering must not cause a round each time.
                await asyncio.sleep(FIRST)
            except TimeoutError:
                pause = min(LONGEST, pause * GROWTH)

    async def _run(self, check: Check) -> None:
        with contextlib.suppress(TierFailed, Overloaded):  # the check has reported it to its dependency
            await check(self._dependencies.monotonic())
