"""Asks each dependency how it is doing: behind the start, which waits for none of them, and again while anything fails."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Overloaded, TierFailed

# Seconds between two rounds while something fails: the first, and the longest; each is half as long again as the last.
FIRST, LONGEST, GROWTH = 1.0, 10.0, 1.5

Check = Callable[[float], Awaitable[None]]
"""Checks one thing, and reports to its dependency; given when it began, in monotonic time. Raises TierFailed, Overloaded."""


class Checks:
    """All of them."""

    def __init__(self, dependencies: Dependencies, checks: Sequence[Check]) -> None:
        self._dependencies = dependencies
        self._checks = checks

    async def run(self) -> None:
        """Checks until cancelled."""
        pause = FIRST
        while True:
            self._dependencies.something_failed.clear()
            await asyncio.gather(*map(self._checked, self._checks))
            if not self._dependencies.failing():
                pause = FIRST
                await self._dependencies.something_failed.wait()
                continue
            try:
                await asyncio.wait_for(self._dependencies.something_failed.wait(), pause)
                pause = FIRST
                # What fails in a hurry is not checked in a hurry.
                await asyncio.sleep(FIRST)
            except TimeoutError:
                pause = min(LONGEST, pause * GROWTH)

    async def _checked(self, check: Check) -> None:
        with contextlib.suppress(TierFailed, Overloaded):  # whoever failed has said why
            await check(self._dependencies.monotonic())
