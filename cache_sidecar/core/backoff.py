"""Exponential backoff with jitter, so that many clients don't retry at the same time."""

import asyncio
import random
from collections.abc import Awaitable, Callable

# Seconds: the maximum pause before the second attempt, which doubles with each further one, and its upper bound.
FIRST, LONGEST = 0.2, 2.0

Sleep = Callable[[float], Awaitable[None]]


class Backoff:
    """The pauses between attempts at one operation."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        """`sleep` waits for a number of seconds."""
        self._sleep = sleep
        self._longest = FIRST

    async def pause(self) -> None:
        """Records a failure, and waits before the next attempt."""
        longest, self._longest = self._longest, min(LONGEST, 2 * self._longest)
        await self._sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311  # not for cryptography

    def reset(self) -> None:
        """Records a success."""
        self._longest = FIRST
