"""Knows of which writes Redis was told, from how many operations on Redis failed in the sidecar that acknowledged them. Pure.

A writer that cannot tell Redis acknowledges all the same, and leaves it to the relay: then another sidecar may lack the write
for as long as the relay takes. A machine that is slow enough makes any writer one of those. So a write counts as told only if
no operation of its sidecar failed between a look at the counter before the call and one after the reply.
"""

from collections import deque
from typing import NamedTuple

# Looks at each process that are remembered.
LOOKS = 400


class Look(NamedTuple):
    """One look at the counter of failed operations."""

    called: float
    replied: float
    errors: int


class Told:
    """The looks at every process."""

    def __init__(self) -> None:
        self._looks: dict[int, deque[Look]] = {}

    def looked(self, process: int, look: Look) -> None:
        """Takes a look; each began after the one before had ended."""
        self._looks.setdefault(process, deque(maxlen=LOOKS)).append(look)

    def was_told(self, process: int, called: float, replied: float) -> bool:
        """Whether Redis was certainly told of a write that a process acknowledged."""
        looks = self._looks.get(process, ())
        before = next((look for look in reversed(looks) if look.replied <= called), None)
        after = next((look for look in looks if look.called >= replied), None)
        return before is not None and after is not None and before.errors == after.errors


class Always(Told):
    """For histories in which Redis is told of everything."""

    def was_told(self, process: int, called: float, replied: float) -> bool:
        """Says so."""
        return True
