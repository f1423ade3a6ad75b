"""Checks recorded reads against rule 2: no reply is older than the bound it states. Pure: times are arguments, in seconds of
one clock.

Versions of a product, a cart or a stock grow in the order of its commits. So one number says all about a read: how long before
the call a newer version was already known. What counts as known, and how long a reply may be behind it, depends on how it
became known:

1. *Own*: a write acknowledged by a sidecar. No later read of the same process is older, not even a stale one, whatever Redis
   lost meanwhile. A sidecar that was killed and started again is another process.
2. *Told*: a write acknowledged by any sidecar. Every other one stops within `Bounds.told`: heartbeat, grace and detection. A reply
   that says `stale` may be older by `Bounds.stale`, and no more.
3. *Seen*: a change nobody acknowledged: of a writer that died, or of another program. It is known from its commit in plain
   SQL, or from the first reply that shows it; so this is also the rule that versions don't go back. The relay tells of it,
   within `Bounds.seen`; `stale` as above.
4. *Age*: what the reply says of itself. Nothing that was acknowledged before the moment of call - age is missing from it, stale or
   not. The clocks of sidecars may differ by `Bounds.clock`.
5. *State*: two replies with the same version say the same.

A call begins before the sidecar gets it and a reply is taken after it was sent, so a delay of the recorder makes reads look
fresher, never staler. A product that always exists and is missing from a reply counts as version 0.
"""

from bisect import bisect_right
from collections.abc import Hashable
from typing import NamedTuple

from tests.consistency.rules.log import Log

# Seconds that superseded versions are remembered. A read that is older than that counts as so old.
REMEMBERED = 60.0
# Processes whose own writes are remembered, and states of one resource.
PROCESSES, STATES = 64, 64


class Bounds(NamedTuple):
    """How far replies may be behind, in seconds."""

    told: float
    seen: float
    stale: float
    clock: float = 0.05


class Read(NamedTuple):
    """One resource in one reply."""

    sidecar: int
    "The process that answered: a number that no other one had. Negative when it is not known which of two it was."
    key: int
    called: float
    version: int
    age: float
    stale: bool
    state: Hashable = None
    "What it says, if that is to be compared."


class Frontier:
    """The newest version known of one resource at each moment."""

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

    def __init__(self, dataset: str, keys: int, bounds: Bounds, log: Log) -> None:
        self.bounds = bounds
        self.reads = 0
        self._dataset = dataset
        self._log = log
        self._told = [Frontier() for _ in range(keys)]
        self._seen = [Frontier() for _ in range(keys)]
        self._own: dict[int, dict[int, Frontier]] = {}
        "By process, then by resource."
        self._states: list[dict[int, Hashable]] = [{} for _ in range(keys)]

    def clocks_differ(self, seconds: float) -> None:
        """From now on what a reply says of its age may be wrong by so much: what was kept stays so for long."""
        self.bounds = self.bounds._replace(clock=max(self.bounds.clock, seconds))

    def acknowledged(self, key: int, version: int, *, sidecar: int, at: float) -> None:
        """Takes a write that a sidecar acknowledged at a moment."""
        self._told[key].know(version, at)
        self._seen[key].know(version, at)
        if sidecar >= 0:
            self._own_of(sidecar).setdefault(key, Frontier()).know(version, at)

    def committed(self, key: int, version: int, *, at: float) -> None:
        """Takes a change that was committed before a moment without any sidecar."""
        self._seen[key].know(version, at)

    def is_state(self, key: int, version: int, state: Hashable) -> None:
        """Takes what a version says, from a write or from a watch."""
        states = self._states[key]
        if states.setdefault(version, state) != state:
            self._log.add(self._dataset, "state", key=key, version=version, first=states[version], now=state)
        if len(states) > STATES:
            del states[next(iter(states))]

    def newest(self, key: int) -> int:
        """Returns the newest version that is known of a resource."""
        return self._seen[key].newest

    def read(self, read: Read, *, replied: float) -> float:
        """Takes a read, and returns how many seconds behind the known writes it was."""
        self.reads += 1
        if read.state is not None:
            self.is_state(read.key, read.version, read.state)
        seen = self._seen[read.key]
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
        told_late, told_newer = self._told[read.key].late(read.version, read.called)
        own = self._own.get(read.sidecar, {}).get(read.key)
        own_late, own_newer = own.late(read.version, read.called) if own else (0.0, 0)
        for rule, late, newer, allowed in (
            ("own", own_late, own_newer, 0.0),
            ("told", told_late, told_newer, bounds.told + patience),
            ("seen", seen_late, seen_newer, bounds.seen + patience),
            ("age", told_late, told_newer, read.age + bounds.clock),
        ):
            if late > allowed:
                facts = read._replace(state=None)._asdict()
                self._log.add(self._dataset, rule, newer=newer, late=late, allowed=allowed, **facts)
                return

    def _own_of(self, sidecar: int) -> dict[int, Frontier]:
        if sidecar not in self._own and len(self._own) >= PROCESSES:
            del self._own[min(self._own)]
        return self._own.setdefault(sidecar, {})
