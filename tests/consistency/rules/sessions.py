"""Checks what sidecars say of sessions: nothing ended lives on, nothing in use is lost. Pure: times are arguments, in seconds of
one clock.

1. *Ended*: a session whose end was acknowledged is not accepted by a call that began later than the bound: at once on the process
   that acknowledged it, `Bounds.told` later on any other, and `Bounds.seen` later if the reply said `revocation_pending`. A
   reply that is marked stale says that it may be older; it is accepted on other processes.
2. *Lost*: a session that nobody tried to end, and that was used so lately that it cannot have expired, is not NOT_FOUND. Use counts
   from the beginning of the call, its expiry by the clocks of sidecars, which may differ by `Bounds.clock`. PostgreSQL hears of a
   use within `Bounds.noted`; one that it could not hear of, since it was away, only Redis knows.

3. *Own* and *told*: once a change of a session was acknowledged, the process that did so shows it at once, and every other one
   `Bounds.told` later, unless it marks its reply stale, or Redis was perhaps not told, see `told.py`.

A session whose end was tried, and not acknowledged, may be there or not. So may one whose creation took several attempts: each
gives it another id and ends the one before, and an earlier attempt may arrive last.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from tests.consistency.rules.log import Log
from tests.consistency.rules.told import Always, Told

_DATASET = "session"
# Outages of PostgreSQL that are remembered: there are not more within an expiry.
OUTAGES = 16


class Bounds(NamedTuple):
    """Seconds."""

    told: float
    "From the acknowledged end to the last call that may be accepted."
    seen: float
    "The same when the end is pending."
    expiry: float
    "From the last use to the expiry."
    noted: float
    "From a use to the moment when PostgreSQL knows of it."
    clock: float = 0.05


@dataclass(slots=True)
class _Session:
    is_certain: bool
    "Whether only its client can end it; else it is never `lost`."
    used: float
    "When the last call began that used it."
    ending: float = inf
    "When the first call began that may have ended it."
    ended: float = inf
    "When the first reply came that said it is ended."
    pending: bool = False
    process: int = -1
    "Which one said so."
    how: str = ""
    "What ended it."
    version: int = 0
    "Of the last change that was acknowledged; `changed` is when, `changer` the process that did so."
    changed: float = inf
    changer: int = -1
    changing: float = 0.0
    "When that was called."


class Sessions:
    """Every session that somebody still asks about."""

    def __init__(self, bounds: Bounds, log: Log, told: Told | None = None) -> None:
        """`told` knows of which changes Redis was told; of all, if it is not given."""
        self._was_told = (told or Always()).was_told
        self.bounds = bounds
        self.reads = 0
        self.log = log
        self.sessions: dict[str, _Session] = {}
        self._away: deque[tuple[float, float]] = deque(maxlen=OUTAGES)

    def clocks_differ(self, seconds: float) -> None:
        """From now on sessions may expire so much earlier."""
        self.bounds = self.bounds._replace(clock=max(self.bounds.clock, seconds))

    def store_was_away(self, since: float, until: float) -> None:
        """Takes that PostgreSQL could not hear of anything for a while."""
        self._away.append((since, until))

    def created(self, id: str, *, called: float, attempts: int = 1) -> None:
        """Takes a session whose creation was acknowledged, by CreateSession or RotateSession, at some attempt."""
        self.sessions[id] = _Session(used=called, is_certain=attempts == 1)

    def ending(self, ids: Collection[str], *, called: float) -> None:
        """Takes that a call begins that may end some."""
        for id in ids:
            session = self.sessions[id]
            session.ending = min(session.ending, called)

    def ended(self, ids: Collection[str], how: str, *, sidecar: int, at: float, pending: bool = False) -> None:
        """Takes that a call said that some are ended. A repeat that says `pending` takes nothing back, unless that was unsaid."""
        for id in ids:
            session = self.sessions[id]
            if session.ended == inf or (session.pending and not pending):
                session.ended, session.pending, session.process, session.how = at, pending, sidecar, how

    def not_there(self, id: str, *, replied: float) -> None:
        """Takes that the only call that was to end a session found none."""
        self._judge_missing(self.sessions[id], sidecar=-1, replied=replied)

    def changed(self, id: str, version: int, *, sidecar: int, at: float, called: float = 0.0) -> None:
        """Takes an acknowledged change; a session has one client that changes it."""
        session = self.sessions[id]
        session.version, session.changed, session.changer, session.changing = version, at, sidecar, called

    def forget(self, ids: Collection[str]) -> None:
        """Takes that nobody asks about some any more."""
        for id in ids:
            self.sessions.pop(id, None)

    def read(self, id: str, *, sidecar: int, called: float, replied: float, version: int | None, stale: bool = False) -> float:
        """Takes what a call was told that uses a session: its version, or None when there is none.

        Returns how many seconds behind what was known that was.
        """
        session = self.sessions.get(id)
        if session is None:
            return 0.0
        self.reads += 1
        if version is None:
            if session.ending >= replied:
                self._judge_missing(session, sidecar=sidecar, replied=replied)
            return 0.0
        session.used = max(session.used, called)
        if called > session.ended:
            return self._accepted(session, sidecar=sidecar, called=called, stale=stale)
        return self._shown(session, version, sidecar=sidecar, called=called, stale=stale)

    def _judge_missing(self, session: _Session, *, sidecar: int, replied: float) -> None:
        left = session.used + self.bounds.expiry - self.bounds.clock - replied
        was_noted = not any(since - self.bounds.noted <= session.used <= until for since, until in self._away)
        if session.is_certain and was_noted and left > 0:
            self.log.add(_DATASET, "lost", sidecar=sidecar, replied=replied, used=session.used, left=left)

    def _shown(self, session: _Session, version: int, *, sidecar: int, called: float, stale: bool) -> float:
        late = called - session.changed
        if version >= session.version or late <= 0:
            return 0.0
        is_own = sidecar >= 0 and sidecar == session.changer
        was_told = self._was_told(session.changer, session.changing, session.changed)
        if is_own or (late > (self.bounds.told if was_told else self.bounds.seen) and not stale):
            facts = {"sidecar": sidecar, "called": called, "late": late, "version": version, "newer": session.version}
            self.log.add(_DATASET, "own" if is_own else "told", **facts)
        return late

    def _accepted(self, session: _Session, *, sidecar: int, called: float, stale: bool) -> float:
        late = called - session.ended
        if sidecar >= 0 and sidecar == session.process:
            allowed = 0.0
        elif stale:
            return late
        else:
            allowed = self.bounds.seen if session.pending else self.bounds.told
        if late > allowed:
            facts = {"sidecar": sidecar, "called": called, "late": late, "allowed": allowed, "pending": session.pending}
            self.log.add(_DATASET, "ended", by=session.how, **facts)
        return late
