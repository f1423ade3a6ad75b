"""Knows of which writes Redis was told, from how many operations on Redis failed in the sidecar that acknowledged them. Pure.

A writer that cannot tell Redis acknowledges all the same, and leaves it to the relay: then another sidecar may lack the write
for as long as the relay takes. A machine that is slow enough makes any writer one of those. So a write counts as told only if
no operation of its sidecar failed between a look at the counter before the call and one after the reply.

In the same way it knows what may have failed while a sidecar answered a read: operations on PostgreSQL between the two looks,
and the relay, if the sidecar said so at one of them.
"""

from collections import deque
from typing import NamedTuple

# Looks at each process that are remembered.
LOOKS = 400
# Seconds between two looks after which anything may have failed for a moment between them.
APART = 1.0


class Look(NamedTuple):
    """One look at the counters of failed operations."""

    called: float
    replied: float
    errors: int
    "On Redis."
    store_errors: int = 0
    "On PostgreSQL."
    is_behind: bool = False
    "Whether the sidecar says that it did not hear of its relay for long."


class Failed(NamedTuple):
    """What may have failed for a while."""

    store: bool
    "PostgreSQL, for some operation."
    relay: bool
    "The relay, which was not heard of for long."


class Told:
    """The looks at every process."""

    def __init__(self) -> None:
        self._looks: dict[int, deque[Look]] = {}

    def looked(self, process: int, look: Look) -> None:
        """Takes a look; each began after the one before had ended."""
        self._looks.setdefault(process, deque(maxlen=LOOKS)).append(look)

    def was_told(self, process: int, called: float, replied: float) -> bool:
        """Whether Redis was certainly told of a write that a process acknowledged."""
        before, after = self._around(process, called, replied)
        return before is not None and after is not None and before.errors == after.errors

    def failed(self, process: int, called: float, replied: float) -> Failed | None:
        """Returns what may have failed in a process while it answered a read; None when that may yet be seen."""
        before, after = self._around(process, called, replied)
        if before is None:
            return Failed(store=True, relay=True)
        if after is None:
            return None
        if after.called - before.replied > APART:
            return Failed(store=True, relay=True)
        between = [look for look in self._looks[process] if before.called <= look.called <= after.called]
        return Failed(before.store_errors != after.store_errors, any(look.is_behind for look in between))

    def _around(self, process: int, called: float, replied: float) -> tuple[Look | None, Look | None]:
        """Returns the last look before a call and the first one after its reply."""
        looks = self._looks.get(process, ())
        before = next((look for look in reversed(looks) if look.replied <= called), None)
        after = next((look for look in looks if look.called >= replied), None)
        return before, after


class Always(Told):
    """For histories in which Redis is told of everything, and PostgreSQL and the relay are always there."""

    def was_told(self, process: int, called: float, replied: float) -> bool:
        """Says so."""
        return True

    def failed(self, process: int, called: float, replied: float) -> Failed | None:
        """Says that nothing did."""
        return Failed(store=False, relay=False)
