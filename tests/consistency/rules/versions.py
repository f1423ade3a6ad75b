"""Checks recorded reads against rule 2: no reply is older than the bound it states. Pure: times are arguments, in seconds of
one clock.

Versions of a product, a cart or a stock grow in the order of its commits. So one number says all about a read: how long before
the call a newer version was already known. What counts as known, and how long a reply may be behind it, depends on how it
became known:

1. *Own*: a write acknowledged by a sidecar. No later read of the same process is older, not even a stale one, whatever Redis
   lost meanwhile. A sidecar that was killed and started again is another process.
2. *Told*: a write acknowledged by a sidecar that told Redis of it. Every other one stops within `Bounds.told`: heartbeat, grace
   and detection. A reply that says `stale` may be older by `Bounds.stale`, and no more, with two exceptions, which
   `k8s/README.md` states: while the sidecar does not hear of its relay, it answers what it holds, and when PostgreSQL does not
   answer, Redis answers what is in doubt, both marked stale, and both without a limit but the `age` that they say. So one of these
   has to have failed in that sidecar meanwhile, see `told.py`, or it breaks this rule. What Redis was perhaps not told of is `seen`.
3. *Seen*: a change nobody acknowledged: of a writer that died, or of another program. It is known from its commit in plain
   SQL, or from the first reply that shows it; so this is also the rule that versions don't go back. The relay tells of it,
   within `Bounds.seen`; when it does not, replies say `stale`, for as long as that lasts.
4. *Age*: what the reply says of itself. Nothing that was acknowledged before the moment of call - age is missing from it, stale or
   not. The clocks of sidecars may differ by `Bounds.clock`.
5. *State*: two replies with the same version say the same.

A call begins before the sidecar gets it and a reply is taken after it was sent, so a delay of the recorder makes reads look
fresher, never staler. A product that always exists and is missing from a reply counts as version 0.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Mapping
from math import inf
from typing import NamedTuple

from tests.consistency.rules.log import Log
from tests.consistency.rules.told import Always, Told

# Seconds that superseded versions are remembered. A read that is older than that counts as so old.
REMEMBERED = 60.0
# Processes whose own writes are remembered, and states of one resource.
PROCESSES, STATES = 64, 64
# Writes whose sidecar is remembered, of all resources together: those of more than a minute.
WRITES = 20_000
# Replies that wait to be judged, and seconds after which they are judged by nothing.
DOUBTFUL, UNDECIDED = 20_000, 10.0


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
    source: str = ""
    "The tier that answered: l1, l2 or store."


class _Doubtful(NamedTuple):
    """A reply that is marked stale, and older than it may be if nothing failed."""

    read: Read
    replied: float
    facts: Mapping[str, object]


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

    def __init__(self, dataset: str, keys: int, bounds: Bounds, log: Log, told: Told | None = None) -> None:
        """`told` knows of which writes Redis was told; of all, if it is not given."""
        self.bounds = bounds
        self.reads = 0
        self._told = told or Always()
        self._doubtful: deque[_Doubtful] = deque(maxlen=DOUBTFUL)
        "Replies of which it is not known yet whether anything failed meanwhile."
        self._dataset = dataset
        self.log = log
        self.frontiers = [Frontier() for _ in range(keys)]
        self._writes: dict[tuple[int, int], tuple[int, float, float]] = {}
        "Who acknowledged a version of a resource: the process, and when it was called and replied."
        self._seen = [Frontier() for _ in range(keys)]
        self.own: dict[int, dict[int, Frontier]] = {}
        "By process, then by resource."
        self.states: list[dict[int, Hashable]] = [{} for _ in range(keys)]

    def clocks_differ(self, seconds: float) -> None:
        """From now on what a reply says of its age may be wrong by so much: what was kept stays so for long."""
        self.bounds = self.bounds._replace(clock=max(self.bounds.clock, seconds))

    def acknowledged(
        self, key: int, version: int, *, sidecar: int, at: float, called: float = 0.0, replied: float = 0.0
    ) -> None:
        """Takes a write that a sidecar acknowledged, known at a moment; when it was called and replied counts for `told`."""
        self.frontiers[key].know(version, at)
        self._seen[key].know(version, at)
        self._writes[key, version] = sidecar, called, replied
        if len(self._writes) > WRITES:
            del self._writes[next(iter(self._writes))]
        if sidecar >= 0:
            self._own_of(sidecar).setdefault(key, Frontier()).know(version, at)

    def committed(self, key: int, version: int, *, at: float) -> None:
        """Takes a change that was committed before a moment without any sidecar."""
        self._seen[key].know(version, at)

    def is_state(self, key: int, version: int, state: Hashable) -> None:
        """Takes what a version says, from a write or from a watch."""
        states = self.states[key]
        if states.setdefault(version, state) != state:
            self.log.add(self._dataset, "state", key=key, version=version, first=states[version], now=state)
        if len(states) > STATES:
            del states[next(iter(states))]

    def read(self, read: Read, *, replied: float) -> float:
        """Takes a read, and returns how many seconds behind the known writes it was."""
        self.reads += 1
        self._settle(read.called)
        if read.state is not None:
            self.is_state(read.key, read.version, read.state)
        seen = self._seen[read.key]
        if read.version >= seen.newest:
            seen.know(read.version, replied)
            return 0.0
        late, newer = seen.late(read.version, read.called)
        if late:
            self._judge(read, late, newer, replied)
        return late

    def _judge(self, read: Read, seen_late: float, seen_newer: int, replied: float) -> None:
        bounds = self.bounds
        own = self.own.get(read.sidecar, {}).get(read.key)
        own_late, own_newer = own.late(read.version, read.called) if own else (0.0, 0)
        told = bounds.told + (bounds.stale if read.stale else 0.0)
        told_late, told_newer = self._told_late(read, told)
        age_late, age_newer = self.frontiers[read.key].late(read.version, read.called)
        for rule, late, newer, allowed in (
            ("own", own_late, own_newer, 0.0),
            ("told", told_late, told_newer, told),
            ("seen", seen_late, seen_newer, inf if read.stale else bounds.seen),
            ("age", age_late, age_newer, read.age + bounds.clock),
        ):
            if late > allowed:
                facts = read._replace(state=None)._asdict()
                facts |= {"replied": replied, "newer": newer, "late": late, "allowed": allowed}
                if rule == "told" and read.stale and late <= read.age + bounds.clock:
                    self._doubtful.append(_Doubtful(read, replied, facts))
                    self._settle(read.called)
                else:
                    self.log.add(self._dataset, rule, **facts)
                return

    def _settle(self, now: float) -> None:
        """Judges the marked replies of which it is known by now whether anything failed meanwhile."""
        while self._doubtful:
            one = self._doubtful[0]
            failed = self._told.failed(one.read.sidecar, one.read.called, one.replied)
            if failed is None and now - one.replied < UNDECIDED:
                return  # its process is looked at again, unless it was killed
            self._doubtful.popleft()
            if failed is None or failed.relay or (failed.store and one.read.source == "l2"):
                continue
            self.log.add(self._dataset, "told", **one.facts)

    def _told_late(self, read: Read, allowed: float) -> tuple[float, int]:
        """Returns as `Frontier.late`, of the writes that Redis was told of, if that is longer than allowed."""
        frontier = self.frontiers[read.key]
        for index in range(bisect_right(frontier.versions, read.version), len(frontier.versions)):
            late, version = read.called - frontier.times[index], frontier.versions[index]
            if late <= allowed:
                break
            write = self._writes.get((read.key, version))
            if write is not None and self._told.was_told(*write):
                return late, version
        return 0.0, 0

    def _own_of(self, sidecar: int) -> dict[int, Frontier]:
        if sidecar not in self.own and len(self.own) >= PROCESSES:
            del self.own[min(self.own)]
        return self.own.setdefault(sidecar, {})
