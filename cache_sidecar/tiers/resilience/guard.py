"""Stands before a tier, and does what the table in `failure.py` says: a limit on concurrent work, a time limit, tries.

The time limit holds for all of it together: standing in line, every try, and the pauses between them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cache_sidecar.core.errors import Failure, Operation, RequestError, Tier, TierFailed
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.failure import tries

T = TypeVar("T")

# Seconds before the second try; twice as long before each further one, half of it by chance (Brooker, Exponential Backoff And
# Jitter, 2015).
BACKOFF = 0.02
# Seconds that the one caller waits whose turn it is to see whether a tier is back.
PROBED_IN = 0.05


class Guard:
    """Runs work against one tier, a part of it at a time, and fails it fast when the tier is known to be away."""

    def __init__(
        self, tier: Tier, *, timeout: float, max_running: int, max_waiting: int, breaker: Breaker | None = None
    ) -> None:
        """Without a breaker, whoever does the work knows what is away."""
        if timeout <= 0 or max_running < 1 or max_waiting < 0:
            raise ValueError("timeout and max_running must be positive, max_waiting not negative")
        self._tier = tier
        self.timeout = timeout
        "Seconds that work may take, all in all."
        self._slots = asyncio.Semaphore(max_running)
        self._room = max_running + max_waiting
        self._breaker = breaker
        self._inside = 0
        self.errors = 0
        self.probe: Callable[[], Awaitable[object]] | None = None
        """Asks the tier for next to nothing. While the breaker is open that is how it is found out whether the tier is back:
        of one that hangs no caller learns it by waiting himself. Without it, one caller at a time is let through."""
        self._probing: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], Awaitable[T]], operation: Operation = Operation.READ) -> T:
        """Returns the work's result. Raises TierFailed: what the work raised, or that it may not or could not run."""
        is_trial = self._admit()
        if is_trial and self.probe is not None:
            await self._until_probed()
        self._inside += 1
        began = False
        try:
            async with asyncio.timeout(self.timeout), self._slots:
                if self._breaker is not None and self._breaker.is_open and not is_trial:
                    raise self._breaker.refusal()  # known since it stood in line
                began = True
                result = await self._tried(work, operation)
        except TimeoutError:
            # Time spent waiting for others says nothing of the tier.
            raise self._failed(TierFailed(self._tier, Failure.TIMEOUT if began else Failure.BUSY), began=began) from None
        except TierFailed as error:
            raise self._failed(error, began=began) from None
        except RequestError:
            if self._breaker is not None:
                self._breaker.succeeded()  # the tier answered: it is the request that is wrong
            raise
        finally:
            self._inside -= 1
        if self._breaker is not None:
            self._breaker.succeeded()
        return result

    async def _until_probed(self) -> None:
        """Returns when the tier is back; raises TierFailed when that is not known in a moment."""
        assert self._breaker is not None
        assert self.probe is not None
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probed(self.probe, self._breaker))
        await asyncio.wait({self._probing}, timeout=PROBED_IN)
        if self._breaker.is_open:
            self.errors += 1
            raise self._breaker.refusal()

    async def _probed(self, probe: Callable[[], Awaitable[object]], breaker: Breaker) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await probe()
        except TimeoutError:
            breaker.failed(TierFailed(self._tier, Failure.TIMEOUT))
        except TierFailed as error:
            breaker.failed(error)
        else:
            breaker.succeeded()

    async def _tried(self, work: Callable[[], Awaitable[T]], operation: Operation) -> T:
        tried, pause = 1, BACKOFF
        while True:
            try:
                return await work()
            except TierFailed as error:
                if tried >= tries(error, operation):
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # nobody gains by guessing it
            tried, pause = tried + 1, 2 * pause

    @property
    def is_open(self) -> bool:
        """Whether work is being failed fast."""
        return self._breaker is not None and self._breaker.is_open

    def _admit(self) -> bool:
        if self._inside >= self._room:
            self.errors += 1
            raise TierFailed(self._tier, Failure.BUSY)
        if self._breaker is None:
            return False
        try:
            return self._breaker.admit()
        except TierFailed:
            self.errors += 1
            raise

    def _failed(self, error: TierFailed, *, began: bool) -> TierFailed:
        self.errors += 1
        if began and self._breaker is not None:
            self._breaker.failed(error)
        return error
