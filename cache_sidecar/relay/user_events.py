"""Moves user events from the streams in Redis to PostgreSQL, while this process leads.

An event is removed from Redis once it is committed. A relay that dies in between leaves it to its successor, which writes it
again: PostgreSQL keeps one row for each event_id. Statements go through the leader's session, so a former leader that wakes up
writes nothing more.

A mark in PostgreSQL is passed once every stream was empty after the mark had been seen: then all that was in Redis before is in
PostgreSQL, where a mark may say that a user's events are to be erased.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from cache_sidecar.core import telemetry
from cache_sidecar.core.backoff import Backoff, Sleep
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.user_event import EventRelayStore, Mark
from cache_sidecar.tiers.redis.event_streams import EventStreams

# The job of its leader.
JOB = "user events"
# Entries taken from each stream at once, and events in one statement, which has to end before the leader counts as silent.
PAGE, STATEMENT = 250, 2_000
# Seconds between two looks at empty streams, and at the marks.
LOOK_EVERY, MARKS_EVERY = 0.2, 0.5
# Seconds after which what was taken and not finished is taken again; at once after a failure. Later, too: a former leader that
# was paused in between, and wakes up, takes entries and cannot write them.
RECOVER_EVERY = 5.0
# Seconds between two rounds in which partitions are made and dropped; days ahead for which there are partitions.
PARTITIONS_EVERY, AHEAD = 60.0, 2
# The name of the problem that the relay reports to its dependency.
MOVING = "moving events"


class UserEventRelay:
    """Moves the events of one region."""

    def __init__(
        self,
        streams: EventStreams,
        *,
        region: str,
        retention: timedelta,
        clock: Clock,
        dependency: Dependency,
        sleep: Sleep = asyncio.sleep,
        open_store: Callable[[Term, str], EventRelayStore] = EventRelayStore,
    ) -> None:
        """`dependency` is reported as failing while events are not moved; `sleep` pauses when there are none."""
        self._streams = streams
        self._region = region
        self._retention = retention
        self._clock = clock
        self._dependency = dependency
        self._sleep = sleep
        self._open_store = open_store
        self._marks: Sequence[Mark] = ()
        "Marks that were seen and are not passed."
        self._next_marks = self._next_partitions = self._next_recovery = 0.0
        self.moved = 0
        "Events that were written to PostgreSQL since the start; those that it had already count again."
        self.unreadable = 0
        "Entries that were no events."
        self._unreadable_limit = LogLimit(every=60.0)

    async def run(self, leadership: Leadership) -> None:
        """Moves events whenever this process is the leader, until cancelled."""
        backoff = Backoff(self._sleep)
        while True:
            try:
                async with leadership.term() as term:
                    telemetry.log.info("leading", region=self._region, job=JOB)
                    await self.lead(term, backoff)
            except LeadershipLost as error:
                self._report(error)
            await backoff.pause()

    async def lead(self, term: Term, backoff: Backoff) -> None:
        """Moves events until leadership is lost. Raises LeadershipLost."""
        store = self._open_store(term, self._region)
        await store.register()
        self._marks, self._next_marks, self._next_partitions = (), 0.0, 0.0
        self._next_recovery = 0.0
        while True:
            try:
                has_more = await self.turn(store)
            except TierFailed as error:
                self._report(error)
                self._next_recovery = 0.0
                await backoff.pause()
                continue
            backoff.reset()
            self._dependency.report_success(MOVING)
            if not has_more:
                await self._sleep(LOOK_EVERY)

    async def turn(self, store: EventRelayStore) -> bool:
        """Moves the next events, and passes the marks; returns whether there are more. Raises TierFailed and LeadershipLost."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_partitions:
            await self._keep_partitions(store)
            self._next_partitions = now + PARTITIONS_EVERY
        # Before events are taken: a stream is empty for the marks that were seen before.
        if not self._marks and now >= self._next_marks:
            self._marks = await store.marks()
            self._next_marks = now + MARKS_EVERY
            if self._marks:
                self._next_recovery = 0.0
        if now >= self._next_recovery:
            self._streams.recover()
            self._next_recovery = now + RECOVER_EVERY
        taken = await self._streams.take(PAGE)
        lines = [_text(event) for entries in taken.entries.values() for _, event in entries if event]
        for first in range(0, len(lines), STATEMENT):
            added = await store.add(lines[first : first + STATEMENT], kept_after=self._oldest_day())
            self.unreadable += added.unreadable
            self.moved += len(lines[first : first + STATEMENT]) - added.unreadable
            if added.unreadable and self._unreadable_limit.should_log():
                telemetry.log.error("entries that are no events were removed from Redis", count=added.unreadable)
        if taken.entries:
            await self._streams.finish(taken)
        if self._marks and taken.is_all:
            await store.pass_marks(self._marks)
            self._marks = ()
        return taken.has_more

    async def _keep_partitions(self, store: EventRelayStore) -> None:
        today = datetime.fromtimestamp(self._clock.now(), UTC).date()
        for day in range(AHEAD + 1):
            await store.make_partition(today + timedelta(days=day))
        if dropped := await store.drop_partitions(self._oldest_day().date()):
            telemetry.log.info("partitions of old events dropped", count=dropped)

    def _oldest_day(self) -> datetime:
        """Returns the start of the first day that is kept."""
        day = datetime.fromtimestamp(self._clock.now(), UTC) - self._retention
        return day.replace(hour=0, minute=0, second=0, microsecond=0)

    def _report(self, error: Exception) -> None:
        self._dependency.report_failure(str(error), effect="user events are not moved to PostgreSQL", problem=MOVING)


def _text(event: bytes) -> str:
    # PostgreSQL's text has no NUL; no event of a sidecar has any.
    return event.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
