"""A circuit breaker: leaves alone what is known to be away, and lets one piece of work through now and then, to see.

The pattern is Nygard's (Release It!, 2007).
"""

from cache_sidecar.clock import Clock
from cache_sidecar.errors import Failure, Tier, TierFailed

# Failures in a row after which work is refused at once, and for how long, in seconds.
BREAK_AFTER = 3
BREAK_FOR = 0.5


class Breaker:
    """Opens after `BREAK_AFTER` failures in a row.

    After `BREAK_FOR` seconds one piece of work is let through, while the rest goes on being refused until that one succeeds.
    """

    def __init__(self, tier: Tier, *, clock: Clock) -> None:
        self._tier = tier
        self._clock = clock
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
            raise TierFailed(self._tier, Failure.UNREACHABLE)
        # The others wait for its outcome.
        self._closed_until = now + BREAK_FOR
        return True

    def succeeded(self) -> None:
        """Takes that work was answered, be it by a refusal."""
        self._failures = 0

    def failed(self, failure: Failure) -> None:
        """Takes that work failed."""
        if failure is Failure.REFUSED or failure is Failure.CONFLICT:
            self._failures = 0  # it answered: others may be served
        elif failure is not Failure.BUSY:
            self._failures += 1
            if self._failures >= BREAK_AFTER:
                self._closed_until = self._clock.now() + BREAK_FOR
