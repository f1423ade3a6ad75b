"""Writes the uses of sessions to PostgreSQL: not each one, but so that it is never behind by more than the policy's window.

Of all readers of a session, Redis asks one per window to write its use (see `touch` in scripts.lua). That use is written
within a second, many sessions in one statement. Uses in between are written when their window is over, unless a later one was,
and when the sidecar stops. A use that Redis could not count is written within a second, however recent the last one in
PostgreSQL: there is no other record of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.tiers.ports import Expiry

V = TypeVar("V")

# Seconds between two statements, and sessions in one.
EVERY = 1.0
BATCH = 1000
# Uses that wait to be written, most of them for their window to end. Of more, the longest waiting are dropped: Redis has most.
MAX_WAITING = 100_000

Write = Callable[[Mapping[str, float], float], Awaitable[None]]
"""Writes uses of the sessions whose last use in PostgreSQL is at or before a time. Raises TierFailed, Overloaded."""


class _Waiting(NamedTuple):
    since: float
    used: float


class Touches:
    """The uses of sessions that are not in PostgreSQL yet."""

    def __init__(self, write: Write, *, window: Callable[[], float], clock: Clock) -> None:
        self._write = write
        self._window = window
        self._clock = clock
        self._due: dict[str, float] = {}
        self._uncounted: dict[str, float] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._tasks = BackgroundTasks()

    def add(self, session_hash: str, expiry: Expiry) -> None:
        """Adds a use, given the expiry as the read left it."""
        if expiry.used - expiry.stored >= self._window() or session_hash in self._due:
            self._waiting.pop(session_hash, None)
            self._put(self._due, session_hash, expiry.used)
        elif expiry.used > expiry.stored:
            earlier = self._waiting.get(session_hash)
            since = earlier.since if earlier else self._clock.now()
            self._put(self._waiting, session_hash, _Waiting(since, expiry.used))

    def add_uncounted(self, uses: Mapping[str, float]) -> None:
        """Adds uses that Redis did not count, in seconds since 1970."""
        for session_hash, used in uses.items():
            self._put(self._uncounted, session_hash, used)

    @staticmethod
    def _put(uses: dict[str, V], session_hash: str, use: V) -> None:
        if len(uses) >= MAX_WAITING and session_hash not in uses:
            del uses[next(iter(uses))]
        uses[session_hash] = use

    def start(self) -> None:
        """Starts to write uses in the background."""
        self._tasks.poll(EVERY, self.flush, delay=EVERY)

    async def close(self) -> None:
        """Stops, and tries to write all uses once."""
        await self._tasks.stop()
        rest = {session_hash: use.used for session_hash, use in self._waiting.items()} | self._due
        self._waiting, self._due = {}, rest
        await self._flush(self._uncounted, overdue=float("inf"))
        await self._flush(self._due, overdue=float("inf"))

    async def flush(self) -> None:
        """Writes the uses that are due."""
        now, window = self._clock.now(), self._window()
        while self._waiting:
            session_hash, use = next(iter(self._waiting.items()))
            if use.since + window > now:
                break
            del self._waiting[session_hash]
            self._put(self._due, session_hash, use.used)
        await self._flush(self._uncounted, overdue=float("inf"))
        await self._flush(self._due, overdue=now - window)

    async def _flush(self, uses: dict[str, float], *, overdue: float) -> None:
        while uses:
            batch = dict(list(uses.items())[:BATCH])
            try:
                await self._write(batch, overdue)
            except (TierFailed, Overloaded):
                return  # logged where it arose; tried again a second later
            for session_hash, used in batch.items():
                # A use that was added while the statement ran stays.
                if uses.get(session_hash) == used:
                    del uses[session_hash]
