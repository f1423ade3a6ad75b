"""Stands before a tier: a limit on concurrent work, a time limit, and a circuit breaker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cache_sidecar.clock import Clock
from cache_sidecar.errors import Failure, RequestError, Tier, TierFailed

T = TypeVar("T")

# Failures in a row after which a tier is left alone, and for how long, in seconds.
BREAK_AFTER = 3
BREAK_FOR = 0.5


class Guard:
    """Runs work against one tier, and fails it fast when the tier is known to be away.

    The breaker opens after `BREAK_AFTER` failures in a row; after `BREAK_FOR` seconds one piece of work is let through to
    see, while the rest goes on failing fast until that one succeeds.
    """

    def __init__(self, tier: Tier, *, timeout: float, max_running: int, max_waiting: int, clock: Clock) -> None:
        if timeout <= 0 or max_running < 1 or max_waiting < 0:
            raise ValueError("timeout and max_running must be positive, max_waiting not negative")
        self._tier = tier
        self._timeout = timeout
        self._slots = asyncio.Semaphore(max_running)
        self._room = max_running + max_waiting
        self._clock = clock
        self._inside = 0
        self._failures = 0
        self._closed_until = 0.0
        self.errors = 0

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Returns the work's result. Raises TierFailed: what the work raised, or that it may not or could not run."""
        self._admit()
        self._inside += 1
        began = False
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                began = True
                result = await work()
        except TimeoutError:
            # Time spent waiting for others says nothing of the tier.
            raise self._failed(TierFailed(self._tier, Failure.TIMEOUT if began else Failure.BUSY)) from None
        except TierFailed as error:
            raise self._failed(error) from None
        except RequestError:
            self._failures = 0  # the tier answered: it is the request that is wrong
            raise
        finally:
            self._inside -= 1
        self._failures = 0
        return result

    def is_open(self) -> bool:
        """Whether work is being failed fast."""
        return self._failures >= BREAK_AFTER

    def _admit(self) -> None:
        if self._inside >= self._room:
            self.errors += 1
            raise TierFailed(self._tier, Failure.BUSY)
        if self._failures >= BREAK_AFTER:
            if self._clock.now() < self._closed_until:
                self.errors += 1
                raise TierFailed(self._tier, Failure.UNREACHABLE)
            # This one is the trial; the others wait for its outcome.
            self._closed_until = self._clock.now() + BREAK_FOR

    def _failed(self, error: TierFailed) -> TierFailed:
        self.errors += 1
        if error.failure is Failure.REFUSED:
            self._failures = 0  # it answered: others may be served
        elif error.failure is not Failure.BUSY:
            self._failures += 1
            if self._failures >= BREAK_AFTER:
                self._closed_until = self._clock.now() + BREAK_FOR
        return error
