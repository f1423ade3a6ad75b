"""Checks recorded reads against rule 2: no reply is older than the bound it states. Pure: times are arguments, in seconds of
one clock.

Versions of a product grow in the order of its commits. So one number says all about a read: how long before the call a newer
version was already known. What counts as known, and how long a reply may be behind it, depends on how it became known:

1. *Own*: a write acknowledged by a sidecar. No later read of the same process is older, not even a stale one, whatever Redis
   lost meanwhile. A sidecar that was killed and started again is another process.
2. *Told*: a write acknowledged by any sidecar. Every other one stops within `Bounds.told`: heartbeat, grace and detection. A reply
   that says `stale` may be older by `Bounds.stale`, the dataset's deadline, and no more.
3. *Seen*: a change nobody acknowledged: of a writer that died, or of another program. It is known from its commit in plain
   SQL, or from the first reply that shows it; so this is also the rule that versions don't go back. The relay tells of it,
   within `Bounds.seen`; `stale` as above.
4. *Age*: what the reply says of itself. Nothing that was acknowledged before the moment of call - age is missing from it, stale or
   not. The clocks of sidecars may differ by `Bounds.clock`.

A call begins before the sidecar gets it and a reply is taken after it was sent, so a delay of the recorder makes reads look
fresher, never staler. A product that always exists and is missing from a reply counts as version 0.
"""

from bisect import bisect_right
from typing import NamedTuple

# Violations kept to be shown; all are counted.
KEPT = 100
# Seconds that superseded versions are remembered. A read that is older than that counts as so old.
REMEMBERED = 60.0


class Bounds(NamedTuple):
    """How far replies may be behind, in seconds."""

    told: float
    seen: float
    stale: float
    clock: float = 0.05


class Read(NamedTuple):
    """One product in one reply."""

    sidecar: int
    "The process that answered: a number that no other one had. Negative when it is not known which of two it was."
    product: int
    called: float
    version: int
    age: float
    stale: bool


class Violation(NamedTuple):
    """A read that breaks a rule."""

    rule: str
    "own, told, seen or age."
    read: Read
    newer: int
    "The oldest version that was known and is newer."
    late: float
    "Seconds from the moment it was known to the call."
    allowed: float


class Frontier:
    """The newest version known of one product at each moment."""

    __slots__ = ("newest", "times", "versions")

    def __init__(self) -> None:
        self.newest = 0
        self.times: list[float] = []
        self.versions: list[int] = []

    def know(self, version: int, at: float) -> None:
        """Takes a version known from a moment on; moments never go back."""
        if version > self.newest:
            self.newest = version
            self.times.append(at)
            self.versions.append(version)
            if at - self.times[0] > 2 * REMEMBERED:
                gone = bisect_right(self.times, at - REMEMBERED) - 1
                del self.times[:gone], self.versions[:gone]

    def late(self, version: int, called: float) -> tuple[float, int]:
        """Returns how many seconds before a call something newer was known, and its version; 0 when nothing was."""
        first = bisect_right(self.versions, version)
        if first == len(self.versions) or self.times[first] >= called:
            return 0.0, 0
        return called - self.times[first], self.versions[first]


class Checker:
    """Takes writes and reads in the order in which their replies came, and finds the reads that break a rule."""

    def __init__(self, products: int, bounds: Bounds) -> None:
        self.bounds = bounds
        self.reads = 0
        self.broken = 0
        "Violations, kept or not."
        self.violations: list[Violation] = []
        self._told = [Frontier() for _ in range(products)]
        self._seen = [Frontier() for _ in range(products)]
        self._own: dict[tuple[int, int], Frontier] = {}

    def acknowledged(self, product: int, version: int, *, sidecar: int, at: float) -> None:
        """Takes a write that a sidecar acknowledged at a moment."""
        self._told[product].know(version, at)
        self._seen[product].know(version, at)
        if sidecar >= 0:
            self._own.setdefault((sidecar, product), Frontier()).know(version, at)

    def committed(self, product: int, version: int, *, at: float) -> None:
        """Takes a change that was committed before a moment without any sidecar."""
        self._seen[product].know(version, at)

    def read(self, read: Read, *, replied: float) -> float:
        """Takes a read, and returns how many seconds behind the known writes it was."""
        self.reads += 1
        seen = self._seen[read.product]
        if read.version >= seen.newest:
            seen.know(read.version, replied)
            return 0.0
        late, newer = seen.late(read.version, read.called)
        if late:
            self._judge(read, late, newer)
        return late

    def _judge(self, read: Read, seen_late: float, seen_newer: int) -> None:
        bounds = self.bounds
        patience = bounds.stale if read.stale else 0.0
        told_late, told_newer = self._told[read.product].late(read.version, read.called)
        own = self._own.get((read.sidecar, read.product))
        own_late, own_newer = own.late(read.version, read.called) if own else (0.0, 0)
        for rule, late, newer, allowed in (
            ("own", own_late, own_newer, 0.0),
            ("told", told_late, told_newer, bounds.told + patience),
            ("seen", seen_late, seen_newer, bounds.seen + patience),
            ("age", told_late, told_newer, read.age + bounds.clock),
        ):
            if late > allowed:
                self.broken += 1
                if len(self.violations) < KEPT:
                    self.violations.append(Violation(rule, read, newer, late, allowed))
                return
