"""Copies user events from PostgreSQL to MongoDB, while this process leads; one relay does it for all regions.

Events are read by position, which follows the order of commits, written, and then the position is saved in MongoDB. A relay
that dies in between leaves it to its successor, which writes them again: the event_id is the document's key.

An erased user's events are deleted once the relay of every region has confirmed the erasure, and so adds none from before it.
Whoever waits for the erasure waits for this, too. MongoDB cannot refuse the writes of a former leader:

    A reads a user's event -> A is paused -> the user is erased -> B becomes the leader and deletes the event -> A writes it

So whoever wrote events then looks whether they are still in PostgreSQL, and deletes those that are not. Only a process that is
paused between reading and writing for as long as it takes to be replaced, and killed between writing and looking, leaves any.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

from cache_sidecar.core import telemetry
from cache_sidecar.core.backoff import Backoff, Sleep
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.mongodb.database import MongoDbFailed
from cache_sidecar.mongodb.events import EventCopy
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.user_event import EventCopyStore, StoredEvent, UserEventStore

# The job of its leader, and the region: there is one leader for all.
JOB, EVERYWHERE = "MongoDB", ""
# Events that are read and written at once.
PAGE = 1_000
# Seconds between two looks for new events, at the marks, and between two confirmations that there are none.
LOOK_EVERY, MARKS_EVERY, CONFIRM_EVERY = 0.2, 0.5, 1.0
EFFECT = "user events are not copied to MongoDB"


class EventCopier:
    """Copies the events of one database."""

    def __init__(
        self,
        copy: EventCopy,
        events: UserEventStore,
        *,
        retention: timedelta,
        dependency: Dependency,
        sleep: Sleep = asyncio.sleep,
        open_store: Callable[[Term], EventCopyStore] = EventCopyStore,
    ) -> None:
        """`dependency` is reported as failing while events are not copied; `sleep` pauses when there are none."""
        self._copy = copy
        self._events = events
        self._retention = retention
        self._dependency = dependency
        self._sleep = sleep
        self._open_store = open_store
        self._position = 0
        self._unchecked: Sequence[StoredEvent] = ()
        "Events that were, or may have been, written since it was last looked whether they are still in PostgreSQL."
        self._next_marks = self._next_confirmation = 0.0
        self._unreadable = LogLimit(every=60.0)

    async def run(self, leadership: Leadership) -> None:
        """Copies events whenever this process is the leader, until cancelled."""
        backoff = Backoff(self._sleep)
        while True:
            try:
                # Also without leading: what a former leader wrote last nobody else looks after.
                await self.check_written()
                async with leadership.term() as term:
                    telemetry.log.info("leading", job=JOB)
                    await self.lead(term, backoff)
            except (LeadershipLost, MongoDbFailed, TierFailed) as error:
                # The lead is given up when MongoDB fails, too: it may answer to another relay.
                self._dependency.report_failure(str(error), effect=EFFECT)
            await backoff.pause()

    async def lead(self, term: Term, backoff: Backoff) -> None:
        """Copies events until something fails. Raises LeadershipLost, MongoDbFailed and TierFailed."""
        store = self._open_store(term)
        await store.register()
        await self._copy.prepare(self._retention)
        await self._find_position(store)
        self._next_marks = self._next_confirmation = 0.0
        while True:
            has_more = await self.turn(store)
            backoff.reset()
            self._dependency.report_success()
            if not has_more:
                await self._sleep(LOOK_EVERY)

    async def turn(self, store: EventCopyStore) -> bool:
        """Copies the next events, and passes marks; returns whether there are more.

        Raises LeadershipLost, MongoDbFailed and TierFailed.
        """
        now = asyncio.get_running_loop().time()
        await self.check_written()
        if now >= self._next_marks:
            await self._pass_marks(store)
            self._next_marks = now + MARKS_EVERY
        found = await store.read(self._position, limit=PAGE)
        if found:
            self._unchecked = found
            left_out = await self._copy.add(found)
            if left_out and self._unreadable.should_log():
                telemetry.log.error("events that cannot be documents are not copied to MongoDB", count=left_out)
            await self.check_written()
            await self._copy.save_position(found[-1].position)
            self._position = found[-1].position
        elif now >= self._next_confirmation:
            await store.confirm_complete()
            self._next_confirmation = now + CONFIRM_EVERY
        return len(found) == PAGE

    async def check_written(self) -> None:
        """Deletes what was written, and had been erased meanwhile. Raises MongoDbFailed and TierFailed."""
        if not self._unchecked:
            return
        if gone := await self._events.find_gone([event.event_id for event in self._unchecked]):
            await self._copy.delete(gone)
        self._unchecked = ()

    async def _find_position(self, store: EventCopyStore) -> None:
        position, last = await self._copy.position(), await store.last_position()
        if position > last:
            # PostgreSQL was restored from a backup, or is another one: positions are given anew.
            telemetry.log.warning(
                "PostgreSQL has fewer events than MongoDB: all are copied again", position=position, last=last
            )
            await self._copy.reset_position()
            position = 0
        self._position = position

    async def _pass_marks(self, store: EventCopyStore) -> None:
        marks = await store.marks()
        for mark in marks:
            if mark.erase_user_id is not None:
                # Those that are in PostgreSQL now are from after the erasure.
                await self._copy.erase(mark.erase_user_id, kept=await store.read_ids(mark.erase_user_id))
        if marks:
            await store.pass_marks(marks)
