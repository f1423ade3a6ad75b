"""Where an event goes before its caller is told that it is written: Redis, or else PostgreSQL.

Redis takes it in the time of one round trip to a node and its replica, and the relay moves it to PostgreSQL later. PostgreSQL
takes it directly where Redis cannot promise to keep it: a caller waits for PostgreSQL only then. Both are bounded by a number
of events. Calls that wait for PostgreSQL are committed together, one transaction at a time: they take one connection from carts
and sessions, and the slower it is, the larger are the transactions.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import tracing
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import EventBacklogFull, Failure, Tier, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.tracing import Span
from cache_sidecar.store.user_event import UserEventStore
from cache_sidecar.tiers.redis.event_streams import STREAMS, EventStreams, Outcome

# Events in one transaction, and those that may wait for one.
TOGETHER, WAITING = 2_000, 10_000
# Seconds between two looks at the backlog, and the age of the oldest event from which the relay counts as failing.
INSPECT_EVERY = 5.0
BEHIND = 30.0


@dataclass
class EventCounts:
    """What became of events since the sidecar started."""

    stored: int = 0
    "Acknowledged with Redis having them."
    direct: int = 0
    "Acknowledged with PostgreSQL having them, as Redis could not promise to keep them."
    refused: int = 0
    "Too old, or from the future."
    opted_out: int = 0
    "Not written, as the user does not agree."
    backlog: int = 0
    "Waiting in Redis when it was last inspected."
    backlog_age: float = 0.0
    "Seconds for which the oldest of these had been waiting."


class _Direct(NamedTuple):
    """A call that waits for PostgreSQL."""

    events: Sequence[str]
    done: asyncio.Future[None]
    span: Span | None
    "Of the call, if it is traced."


class EventWriter:
    """Writes events durably."""

    def __init__(
        self, streams: EventStreams, store: UserEventStore, settings: Settings, *, clock: Clock, dependency: Dependency
    ) -> None:
        """`dependency` is reported as failing while the relay does not move events."""
        self._streams = streams
        self._store = store
        self._limit = max(1, settings.event_backlog // STREAMS)
        self._replicas = settings.event_replicas
        self._retention = timedelta(days=settings.event_retention)
        self._clock = clock
        self._dependency = dependency
        self._queue: deque[_Direct] = deque()
        "Calls that wait for PostgreSQL."
        self._queued = 0
        "Events in the queue."
        self._is_flushing = False
        self._tasks = BackgroundTasks()
        self.counts = EventCounts()

    async def write(self, events: Sequence[bytes]) -> None:
        """Writes events, JSON objects. Raises EventBacklogFull, and TierFailed if neither Redis nor PostgreSQL takes them."""
        outcome = await self._streams.append(events, limit=self._limit, replicas=self._replicas)
        if outcome is Outcome.FULL:
            raise EventBacklogFull
        if outcome is Outcome.STORED:
            self.counts.stored += len(events)
            return
        await self._write_directly(events)
        self.counts.direct += len(events)

    async def _write_directly(self, events: Sequence[bytes]) -> None:
        if self._queued + len(events) > WAITING:
            raise TierFailed(Tier.STORE, Failure.BUSY)
        call = _Direct([event.decode() for event in events], asyncio.get_running_loop().create_future(), tracing.current())
        self._queue.append(call)
        self._queued += len(events)
        if not self._is_flushing:
            # Not by the state of its task: that ends a moment after the queue was found empty, and nobody would see this call.
            self._is_flushing = True
            self._tasks.spawn(self._flush())
        await call.done

    async def _flush(self) -> None:
        """Commits what is in the queue."""
        while self._queue:
            calls = [self._queue.popleft()]
            count = len(calls[0].events)
            while self._queue and count + len(self._queue[0].events) <= TOGETHER:
                calls.append(self._queue.popleft())
                count += len(calls[-1].events)
            failed: Exception | None = None
            try:
                with tracing.sharing("commit user events", [call.span for call in calls if call.span is not None]):
                    await self._commit([event for call in calls for event in call.events])
            except Exception as error:  # noqa: BLE001  # for those who wait; a defect, too
                failed = error
            self._queued -= count
            for call in calls:
                if call.done.done():
                    continue  # its caller has left
                if failed is None:
                    call.done.set_result(None)
                else:
                    call.done.set_exception(failed)
        self._is_flushing = False

    async def _commit(self, events: Sequence[str]) -> None:
        kept_after = datetime.fromtimestamp(self._clock.now(), UTC) - self._retention
        added = await self._store.add(events, kept_after=kept_after)
        if added.unreadable:
            # Such as those of another week, when the clock of one of the two is wrong.
            raise TierFailed(Tier.STORE, Failure.REFUSED, f"{added.unreadable} events were not accepted")

    async def close(self) -> None:
        """Stops; to be called when no calls are left."""
        await self._tasks.stop()

    async def inspect(self) -> None:
        """Looks at what waits in Redis, and reports a relay that does not move it."""
        try:
            backlog = await self._streams.inspect()
        except TierFailed:
            return  # reported by its node
        age = max(0.0, self._clock.now() - backlog.oldest) if backlog.oldest is not None else 0.0
        self.counts.backlog, self.counts.backlog_age = backlog.waiting, age
        if age < BEHIND:
            self._dependency.report_success()
        else:
            self._dependency.report_failure(
                f"{backlog.waiting:,} events wait for the relay to move them to PostgreSQL, the oldest for {age:.0f} s",
                effect="analytics and recommendations are behind; above event_backlog, writers of events are refused",
            )
