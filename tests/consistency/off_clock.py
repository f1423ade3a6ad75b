"""`python -m tests.consistency.off_clock SECONDS serve|relay ...`: the program, with a clock that is that many seconds ahead.

There is no such setting: the system clock is replaced before the modules that use it are imported.
"""

import sys
import threading
import time
from collections.abc import Callable

from cache_sidecar.__main__ import main
from cache_sidecar.core import clock
from tests.support.clocks import ManualClock

# Seconds between two moments that are told to who cannot ask: the native engine.
_TELL_EVERY = 0.002


class OffClock(ManualClock):
    """The machine's clock, and so many seconds; negative ones are behind."""

    def __init__(self, ahead: float) -> None:
        self._ahead = ahead

    def now(self) -> float:
        """Returns what this clock shows."""
        return time.time() + self._ahead

    def follow(self, follower: Callable[[float], None]) -> None:
        """Reports the time for ever."""

        def tell() -> None:
            while True:
                follower(self.now())
                time.sleep(_TELL_EVERY)

        follower(self.now())
        threading.Thread(target=tell, daemon=True).start()


if __name__ == "__main__":
    ahead = float(sys.argv.pop(1))
    clock.SystemClock = lambda: OffClock(ahead)  # type: ignore[assignment, misc]
    main()
