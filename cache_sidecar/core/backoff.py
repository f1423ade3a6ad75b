"""Pauses between attempts at something that fails, longer and longer; half of each by chance: so many don't try at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable

# Seconds: at most this before the second attempt, twice as long before each further one, up to the longest.
FIRST, LONGEST = 0.2, 2.0

Sleep = Callable[[float], Awaitable[None]]


class Backoff:
    """The pauses of one thing that is tried."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        """`sleep` waits for so many seconds."""
        self._sleep = sleep
        self._longest = FIRST

    async def pause(self) -> None:
        """Records a failure, and waits before the next attempt."""
        longest, self._longest = self._longest, min(LONGEST, 2 * self._longest)
        await self._sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311  # nobody gains by guessing it

    def reset(self) -> None:
        """Takes that it works."""
        self._longest = FIRST
