"""A circuit breaker: leaves alone what is known to be away, and lets one piece of work through now and then, to see.

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

    After `BREAK_FOR` seconds one piece of work is let through, while the rest goes on being refused until that one succeeds.
    """

    def __init__(
        self, tier: Tier, *, clock: Clock, dependency: Dependency | None = None, effect: str = "", problem: str = REACHED
    ) -> None:
        """`dependency` is told of a problem while the breaker is open, and what that costs callers: `effect`."""
        self._tier = tier
        self._clock = clock
        self._dependency = dependency
        self._effect = effect
        self._problem = problem
        self._is_told = False
        self._detail = ""
        "What the tier said when it last failed."
        self._failures = 0
        self._closed_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether work is being refused."""
        return self._failures >= BREAK_AFTER

    def admit(self) -> bool:
        """Returns whether this is the one piece of work that is let through to see. Raises TierFailed if it may not run."""
        if self._failures < BREAK_AFTER:
            return False
        now = self._clock.now()
        if now < self._closed_until:
            raise self.refusal()
        # The others wait for its outcome.
        self._closed_until = now + BREAK_FOR
        return True

    def refusal(self) -> TierFailed:
        """Returns what refused work gets, with the tier's own words when it last failed: whoever gets it may pass them on."""
        return TierFailed(self._tier, Failure.UNREACHABLE, self._detail)

    def succeeded(self) -> None:
        """Records that the tier answered, even with a refusal."""
        self._failures = 0
        if self._is_told and self._dependency is not None:
            self._is_told = False
            self._dependency.works(self._problem)

    def failed(self, error: TierFailed) -> None:
        """Takes that work failed."""
        if error.failure is Failure.REFUSED or error.failure is Failure.CONFLICT:
            self.succeeded()  # it answered: others may be served
        elif error.failure is not Failure.BUSY:
            self._failures += 1
            if self._failures >= BREAK_AFTER:
                self._closed_until = self._clock.now() + BREAK_FOR
                self._detail = error.detail or error.failure.value
                self.tell(error)

    def tell(self, error: TierFailed) -> None:
        """Tells the dependency, before the breaker opens by itself."""
        if self._dependency is not None:
            self._is_told = True
            self._dependency.failed(error.detail or error.failure.value, effect=self._effect, problem=self._problem)
