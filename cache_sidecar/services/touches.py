"""Tells PostgreSQL that sessions are used: not every time, but so that it is never behind by more than the policy's window.

Redis says, of all readers of a session, to one per window that PostgreSQL has to hear of it (see `slide` in functions.lua);
what that one has to tell goes out within a second, many sessions in one statement. The uses in between are told when the
window is over, if nobody was told to tell more by then, and when the sidecar stops. A use that Redis did not count is told
within a second, too, however little PostgreSQL is behind: nobody else knows of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.tiers.ports import Expiry

V = TypeVar("V")

# Seconds between two statements, and sessions in one.
EVERY = 1.0
BATCH = 1000
# Uses that wait to be told, most of them for their window to end; of more, the longest waiting are forgotten: most Redis has.
MAX_WAITING = 100_000

Write = Callable[[Mapping[str, float], float], Awaitable[None]]
"""Writes uses, of those sessions whose last use in PostgreSQL is not after a moment. Raises TierFailed, Overloaded."""


class _Waiting(NamedTuple):
    since: float
    used: float


class Touches:
    """The uses of sessions that PostgreSQL has not heard of."""

    def __init__(self, write: Write, *, window: Callable[[], float], clock: Clock) -> None:
        self._write = write
        self._window = window
        self._clock = clock
        self._due: dict[str, float] = {}
        self._uncounted: dict[str, float] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, session_hash: str, expiry: Expiry) -> None:
        """Takes note of a use, as the read left it."""
        if expiry.used - expiry.stored >= self._window() or session_hash in self._due:
            self._waiting.pop(session_hash, None)
            self._put(self._due, session_hash, expiry.used)
        elif expiry.used > expiry.stored:
            earlier = self._waiting.get(session_hash)
            since = earlier.since if earlier else self._clock.now()
            self._put(self._waiting, session_hash, _Waiting(since, expiry.used))

    def uncounted(self, uses: Mapping[str, float]) -> None:
        """Takes note of uses that Redis did not count, in seconds since the epoch."""
        for session_hash, used in uses.items():
            self._put(self._uncounted, session_hash, used)

    @staticmethod
    def _put(uses: dict[str, V], session_hash: str, use: V) -> None:
        if len(uses) >= MAX_WAITING and session_hash not in uses:
            del uses[next(iter(uses))]
        uses[session_hash] = use

    def start(self) -> None:
        """Starts telling PostgreSQL in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(log_failure)

    async def close(self) -> None:
        """Tells PostgreSQL everything, once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        rest = {session_hash: use.used for session_hash, use in self._waiting.items()} | self._due
        self._waiting, self._due = {}, rest
        await self._flush(self._uncounted, overdue=float("inf"))
        await self._flush(self._due, overdue=float("inf"))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Tells PostgreSQL what it has to hear by now."""
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
                return  # the database has said why; they are told a second later
            for session_hash, used in batch.items():
                if uses.get(session_hash) == used:
                    del uses[session_hash]
