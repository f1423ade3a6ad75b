"""A circuit breaker: fails work at once while a tier is known to be down, and lets one piece of work through now and then.

The pattern is Nygard's (Release It!, 2007).
"""

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed

# Failures in a row after which work is refused at once, and for how long, in seconds.
BREAK_AFTER = 3
BREAK_FOR = 0.5
# The problem of a dependency that does not answer.
REACHED = "reached"


class Breaker:
    """Opens after `BREAK_AFTER` failures in a row.

    After `BREAK_FOR` seconds one piece of work, the trial, is let through; the rest is refused until a trial succeeds.
    """

    def __init__(
        self, tier: Tier, *, clock: Clock, dependency: Dependency | None = None, effect: str = "", problem: str = REACHED
    ) -> None:
        """While the breaker is open, `problem` is reported to `dependency`, with its `effect` on callers."""
        self._tier = tier
        self._clock = clock
        self._dependency = dependency
        self._effect = effect
        self._problem = problem
        self._is_reported = False
        self._detail = ""
        "The tier's error message of its last failure."
        self._failures = 0
        self._next_trial_at = 0.0
        self.opened = 0
        "How often it opened."
        if dependency is not None:
            dependency.breakers[problem] = self

    @property
    def is_open(self) -> bool:
        """Whether work is being refused."""
        return self._failures >= BREAK_AFTER

    def admit(self) -> bool:
        """Returns whether this is the trial. Raises TierFailed if the work may not run."""
        if self._failures < BREAK_AFTER:
            return False
        now = self._clock.now()
        if now < self._next_trial_at:
            raise self.refusal()
        # Others are refused until the outcome of this one is known, or it has been out for as long again.
        self._next_trial_at = now + BREAK_FOR
        return True

    def refusal(self) -> TierFailed:
        """Returns the error of refused work, with the tier's last error message."""
        return TierFailed(self._tier, Failure.UNREACHABLE, self._detail)

    def record_success(self) -> None:
        """Records that the tier answered, even with a refusal."""
        self._failures = 0
        if self._is_reported and self._dependency is not None:
            self._is_reported = False
            self._dependency.report_success(self._problem)

    def record_failure(self, error: TierFailed) -> None:
        """Records that work failed."""
        if error.failure is Failure.REFUSED or error.failure is Failure.CONFLICT:
            self.record_success()  # the tier answered, and may well serve other work
        elif error.failure is not Failure.BUSY:
            self._failures += 1
            if self._failures >= BREAK_AFTER:
                self.opened += self._failures == BREAK_AFTER
                self._next_trial_at = self._clock.now() + BREAK_FOR
                self._detail = error.detail or error.failure.value
                self.report(error)

    def report(self, error: TierFailed) -> None:
        """Reports the problem to the dependency, if need be before the breaker opens by itself."""
        if self._dependency is not None:
            self._is_reported = True
            self._dependency.report_failure(error.detail or error.failure.value, effect=self._effect, problem=self._problem)
