"""How often a lasting problem is logged."""

import math
import time
from collections.abc import Callable


class LogLimit:
    """Lets a problem be logged once, and again after it was over or, given `every`, after so many seconds."""

    def __init__(self, *, every: float = math.inf, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        "How often the problem occurred since it was last logged, including this time."
        self._every = every
        self._monotonic = monotonic
        self._logged_at = -math.inf
        self._is_counted = False

    def should_log(self) -> bool:
        """Records that the problem occurred; returns whether to log it."""
        if self._is_counted:
            self.count, self._is_counted = 0, False
        self.count += 1
        now = self._monotonic()
        if now - self._logged_at < self._every:
            return False
        self._logged_at, self._is_counted = now, True
        return True

    def reset(self) -> None:
        """Records that the problem is over."""
        self._logged_at = -math.inf
