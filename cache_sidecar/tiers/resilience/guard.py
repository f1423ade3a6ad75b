"""Guards a tier as the table in `failure.py` says: a limit on concurrent work, a time limit, retries.

The time limit holds for all of it together: waiting for a slot, every try, and the pauses between them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cache_sidecar.core.errors import Failure, Operation, RequestError, Tier, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.failure import tries

T = TypeVar("T")

# Seconds before the second try, and twice as long before each further one; up to half of it is cut off at random (Brooker,
# Exponential Backoff And Jitter, 2015).
BACKOFF = 0.02
# Seconds for which the trial waits for the probe.
PROBE_WAIT = 0.05


class Guard:
    """Runs work against one tier, a limited number at a time, and fails it fast while the tier is known to be down."""

    def __init__(
        self, tier: Tier, *, timeout: float, max_running: int, max_waiting: int, breaker: Breaker | None = None
    ) -> None:
        """Without a breaker, the work itself knows what is down."""
        if timeout <= 0 or max_running < 1 or max_waiting < 0:
            raise ValueError("timeout and max_running must be positive, max_waiting not negative")
        self._tier = tier
        self.timeout = timeout
        "Seconds that work may take, all in all."
        self._slots = asyncio.Semaphore(max_running)
        self._max_running = max_running
        self._max_inside = max_running + max_waiting
        self._breaker = breaker
        self._inside = 0
        self.errors = 0
        self.probe: Callable[[], Awaitable[object]] | None = None
        """A cheap request that finds out whether the tier is back while the breaker is open, so that no caller has to wait for
        a tier that hangs. Without it, one caller at a time is let through as a trial."""
        self._probing: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks()

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for a slot."""
        return max(0, self._inside - self._max_running)

    @property
    def is_open(self) -> bool:
        """Whether work is being failed fast."""
        return self._breaker is not None and self._breaker.is_open

    async def run(self, work: Callable[[], Awaitable[T]], operation: Operation = Operation.READ) -> T:
        """Returns the work's result. Raises TierFailed: what the work raised, or that it may not or could not run."""
        breaker, is_trial = self._breaker, await self._admit()
        failed: TierFailed
        has_begun = False
        self._inside += 1
        try:
            async with asyncio.timeout(self.timeout), self._slots:
                if breaker is not None and breaker.is_open and not is_trial:
                    raise breaker.refusal()  # it opened while this work waited for a slot
                has_begun = True
                result = await self._try(work, operation)
        except TimeoutError:
            # Time spent waiting for a slot says nothing about the tier.
            failed = TierFailed(self._tier, Failure.TIMEOUT if has_begun else Failure.BUSY)
        except TierFailed as error:
            failed = error
        except RequestError:
            if breaker is not None:
                breaker.record_success()  # the tier answered: it is the request that is wrong
            raise
        else:
            if breaker is not None:
                breaker.record_success()
            return result
        finally:
            self._inside -= 1
        self.errors += 1
        if has_begun and breaker is not None:
            breaker.record_failure(failed)
        raise failed

    async def _admit(self) -> bool:
        """Returns whether the work is the trial of an open breaker. Raises TierFailed if it may not run."""
        if self._inside >= self._max_inside:
            self.errors += 1
            raise TierFailed(self._tier, Failure.BUSY)
        try:
            if self._breaker is None or not self._breaker.admit():
                return False
            if self.probe is not None:
                await self._wait_for_probe(self._breaker, self.probe)
        except TierFailed:
            self.errors += 1
            raise
        return True

    async def _try(self, work: Callable[[], Awaitable[T]], operation: Operation) -> T:
        """Runs work as often as the table allows."""
        tried, pause = 1, BACKOFF
        while True:
            try:
                return await work()
            except TierFailed as error:
                if tried >= tries(error, operation):
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # not a secret
            tried, pause = tried + 1, 2 * pause

    async def _wait_for_probe(self, breaker: Breaker, probe: Callable[[], Awaitable[object]]) -> None:
        """Returns when the probe has closed the breaker; raises TierFailed if that takes longer than `PROBE_WAIT`."""
        if self._probing is None or self._probing.done():
            self._probing = self._tasks.spawn(self._probe(breaker, probe))
        await asyncio.wait({self._probing}, timeout=PROBE_WAIT)
        if breaker.is_open:
            raise breaker.refusal()

    async def _probe(self, breaker: Breaker, probe: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await probe()
        except TimeoutError:
            breaker.record_failure(TierFailed(self._tier, Failure.TIMEOUT))
        except TierFailed as error:
            breaker.record_failure(error)
        else:
            breaker.record_success()
