"""Measures how long a message takes from being sent to one primary until the subscription to it delivers it."""

import itertools
import math
import secrets
from collections import deque
from collections.abc import Callable

# Seconds for which the longest delay is remembered, so that it is in at least one scrape.
WINDOW = 60.0
# Seconds between two messages.
EVERY = 1.0


class Probe:
    """The probe messages of one subscription, on its own channel. They arrive behind the invalidations sent before them."""

    def __init__(self, channel: Callable[[str], str], clock: Callable[[], float]) -> None:
        """`channel` returns the channel of a name; `clock` returns seconds."""
        self.channel = channel(secrets.token_hex(8)).encode()
        self._clock = clock
        self._numbers = itertools.count(1)
        self._next = math.inf
        "When the next message is due, after the first one."
        self._waiting: tuple[int, float] | None = None
        "The first message that was not delivered yet, and when it was sent, or due if it could not be sent then."
        self._delays: deque[tuple[float, float]] = deque()
        "(time of delivery, delay) of those delivered within the last WINDOW seconds that no later one exceeded."

    def send(self) -> int | None:
        """Returns the next message, to be sent now; None while none is due."""
        now = self._clock()
        if now < self._next < math.inf:
            return None
        since = now - self._overdue(now)
        number, self._next = next(self._numbers), now + EVERY
        if self._waiting is None:
            self._waiting = number, since
        return number

    def _overdue(self, now: float) -> float:
        """Returns how many seconds ago the next message was due, if it could not be sent: there was no connection."""
        late = now - self._next
        return late if late > EVERY else 0.0

    def receive(self, data: bytes) -> None:
        """Notes that a message was delivered."""
        if self._waiting is None or int(data) < self._waiting[0]:
            return
        # A later one, if the first was lost with a former subscription: that delayed both.
        now = self._clock()
        delay = now - self._waiting[1]
        self._waiting = None
        while self._delays and self._delays[-1][1] <= delay:
            self._delays.pop()
        self._delays.append((now, delay))

    def longest(self) -> float | None:
        """Returns the longest delay of the last minute, in seconds, or that of a message under way; None without any."""
        now = self._clock()
        while self._delays and self._delays[0][0] < now - WINDOW:
            self._delays.popleft()
        found = [self._delays[0][1]] if self._delays else []
        if self._waiting is not None:
            found.append(now - self._waiting[1])
        elif late := self._overdue(now):
            found.append(late)
        return max(found, default=None)
