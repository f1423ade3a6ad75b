"""Admission control: which calls are refused under overload.

One limit bounds all calls in progress; its last part is reserved for the more important ones. Another bounds those of each
dataset, so that none of them takes all the room.

A call refused early costs next to nothing, and those admitted stay fast; the alternative is that all of them are late. A hit in
memory waits for nothing, so it needs no admission.
"""

from enum import Enum

from cache_sidecar.core.errors import Overloaded


class Priority(Enum):
    """The share of the limit, 0 to 1, that calls may fill: less important ones are refused earlier."""

    VITAL = 1.0
    "Carts, reservations, sessions: a shop without them sells nothing. And calls of operators."
    NORMAL = 0.8
    "Products, which may still be in a page that the browser has."
    LOW = 0.5
    "What can be missing for a moment, such as recommendations."


class Admission:
    """The limits on the calls of a sidecar."""

    def __init__(self, limit: int, *, each: int) -> None:
        if min(limit, each) < 1:
            raise ValueError("the limits must be at least 1")
        self.limit = limit
        "Maximum number of calls in progress; may be changed at any time."
        self.each = each
        "Maximum number of calls in progress of one dataset."
        self.inside = 0
        "Calls in progress."
        self.limiters: list[Limiter] = []
        "Those of the datasets."

    def limiter(self, dataset: str, priority: Priority) -> "Limiter":
        """Returns the limiter for the calls of a dataset."""
        self.limiters.append(made := Limiter(self, dataset, priority))
        return made


class Limiter:
    """Limits the calls of one dataset."""

    __slots__ = ("_admission", "_share", "inside", "name", "priority", "refused")

    def __init__(self, admission: Admission, name: str, priority: Priority) -> None:
        self._admission = admission
        self.name = name
        self.priority = priority
        self._share = priority.value
        self.inside = 0
        "Calls in progress."
        self.refused = 0

    def acquire(self) -> None:
        """Admits a call, which must be released when it ends. Raises Overloaded when there is no room."""
        admission = self._admission
        if self.inside >= admission.each:
            self.refused += 1
            raise Overloaded(f"{self.inside} calls of {self.name} are in progress")
        if admission.inside >= max(1.0, admission.limit * self._share):
            self.refused += 1
            raise Overloaded(f"{admission.inside} calls are in progress, too many for another one of {self.name}")
        admission.inside += 1
        self.inside += 1

    def release(self) -> None:
        """Records that a call has ended."""
        self._admission.inside -= 1
        self.inside -= 1
