"""Who may come in when there is too much to do.

There is a bound on calls in progress, the last part of which is for what matters most, and a bound for each dataset, so that
no single one fills it all.

Refused early, a call costs next to nothing, and what is served stays fast: better than all of them late. What waits for
nothing, a hit in memory, needs no admission.
"""

from enum import Enum

from cache_sidecar.core.errors import Overloaded


class Priority(Enum):
    """How much of the bound calls of a kind may fill, from 0 to 1: what is less important is refused earlier."""

    VITAL = 1.0
    "Carts, reservations, sessions: a shop without them sells nothing. And what operators ask."
    NORMAL = 0.8
    "Products, which may still come from a page that the browser has."
    LOW = 0.5
    "What nobody misses for a moment, such as recommendations."


class Admission:
    """All calls of a sidecar."""

    def __init__(self, limit: int, *, each: int) -> None:
        if min(limit, each) < 1:
            raise ValueError("the limits must be at least 1")
        self.limit = limit
        "Calls in progress at once. Whoever measures how many are too many may change it at any time."
        self.each = each
        "Of them, those of one dataset."
        self.inside = 0

    def door(self, dataset: str, priority: Priority) -> "Limiter":
        """Returns what the calls of a dataset pass."""
        return Limiter(self, dataset, priority)


class Limiter:
    """The calls of one dataset."""

    __slots__ = ("_admission", "_name", "_share", "inside", "refused")

    def __init__(self, admission: Admission, name: str, priority: Priority) -> None:
        self._admission = admission
        self._name = name
        self._share = priority.value
        self.inside = 0
        "Calls in progress."
        self.refused = 0

    def enter(self) -> None:
        """Takes a call in; it has to leave. Raises Overloaded when there is no room."""
        admission = self._admission
        if self.inside >= admission.each:
            self.refused += 1
            raise Overloaded(f"{self.inside} calls of {self._name} are in progress")
        if admission.inside >= max(1.0, admission.limit * self._share):
            self.refused += 1
            raise Overloaded(f"{admission.inside} calls are in progress, too many for another one of {self._name}")
        admission.inside += 1
        self.inside += 1

    def leave(self) -> None:
        """Takes that a call has ended."""
        self._admission.inside -= 1
        self.inside -= 1
