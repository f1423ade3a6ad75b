"""Decides whether and when a call is repeated, and how long each attempt may take: the only place that does.

Every unary call may be repeated: reads change nothing, and writes carry the same request_id in each attempt, by which the
sidecar recognizes those that it has executed. So a restart of the sidecar delays calls, and fails none that has the time.
"""

import math
import random
import time
from collections.abc import Callable

from cache_sidecar_client.errors import Overloaded, SidecarError, Unauthenticated, Unavailable

FIRST_PAUSE = 0.025
LONGEST_PAUSE = 0.4
"In seconds. The connection is tried again at most a second later, whatever the pauses of calls are."
ATTEMPTS_UNDER_OVERLOAD = 3
LONGEST_TIMEOUT = 365 * 86400.0
"In seconds. What is longer, also math.inf, is as good as none; gRPC would take it for no time at all."


def pause(repeats: int) -> float:
    """Returns the seconds before a repetition: growing, and never the same for callers that failed together."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2**repeats) * random.uniform(0.5, 1.0))  # noqa: S311  # not for cryptography


class Attempts:
    """The attempts of one call."""

    __slots__ = ("_clock", "_deadline", "_repeats", "count", "looks_at_token", "started")

    def __init__(self, timeout: float, *, repeats: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """`timeout` is for all attempts together, in seconds; without `repeats` there is one. Raises ValueError for NaN."""
        if math.isnan(timeout):
            raise ValueError("a timeout is a number of seconds, not NaN")
        self._clock = clock
        self._repeats = repeats
        self.started = clock()
        self._deadline = self.started + timeout
        self.count = 1
        self.looks_at_token = False
        "Whether the next attempt has to look at the token's file, as the sidecar has refused the token."

    def timeout(self) -> float:
        """Returns the seconds that the present attempt has: never 0, which gRPC takes for none."""
        return min(max(self._deadline - self._clock(), 0.001), LONGEST_TIMEOUT)

    def seconds(self) -> float:
        """Returns the seconds since the call began."""
        return self._clock() - self.started

    def delay_after(self, error: SidecarError) -> float:
        """Returns the seconds to wait before the next attempt; raises the error if there is none."""
        if isinstance(error, Unauthenticated) and error.reason == "INVALID_TOKEN" and not self.looks_at_token:
            # The sidecar may have heard of a rotation before this process looked at the file.
            self.looks_at_token = True
            self.count += 1
            return 0.0
        overloaded = isinstance(error, Overloaded) and error.retry_after is not None and self.count < ATTEMPTS_UNDER_OVERLOAD
        if not self._repeats or not (isinstance(error, Unavailable) or overloaded):
            raise error
        delay = max(pause(self.count - 1), error.retry_after or 0.0)
        if self._clock() + delay >= self._deadline:
            raise error
        self.count += 1
        return delay
