"""Folds user events into the model of recommendations, while this process leads: one relay of all regions.

It reads the events that the relays have moved to PostgreSQL, by position. A purchase is in its buyer's lists as soon as it is
folded in, which an announcement starts; rows of products follow once a minute. Statements go through the leader's session, so a
former leader writes nothing more.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cache_sidecar.config.policy import DatasetPolicy, default
from cache_sidecar.core import telemetry
from cache_sidecar.core.backoff import Backoff, Sleep
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import SidecarError
from cache_sidecar.recommendations.folder import Folder
from cache_sidecar.recommendations.model import Event
from cache_sidecar.store.leadership import Leadership, Term
from cache_sidecar.store.recommendation import JOB, ModelStore

# Events that are read at once.
PAGE = 10_000
# Seconds between two looks when no events are announced.
LOOK_EVERY = 1.0
# Seconds between two saves. The longer, the fewer rows are written again and again; a relay that dies leaves as much to be
# folded in once more.
SAVE_EVERY = 60.0
# Seconds between two looks for rows to publish, of which each is published at most once a minute; and rows in one look, as new
# purchases wait for it.
PUBLISH_EVERY, PUBLISH = 5.0, 100
# Seconds between the starts of two rounds in which all rows are computed anew, and between two steps of a round. With 100,000
# products a round takes 17 minutes.
REFRESH_EVERY, STEP_EVERY, STEP = 3600.0, 1.0, 100
# The name of the problem that the relay reports to its dependency.
FOLDING = "folding events in"


@dataclass
class _Due:
    """When to do what next, in the event loop's time."""

    save: float
    publish: float = 0.0
    refresh: float = 0.0
    "The next step of a round."
    round: float = 0.0
    "The next round; a round that has begun continues."
    number: int = 0
    "The product up to which a round has come; 0 between two."
    is_behind: bool = True
    "Whether the saved state lacks events that were there when this began: nothing is published from it."


class RecommendationRelay:
    """Folds the events of one database."""

    def __init__(
        self, *, dependency: Dependency, policy: Callable[[], DatasetPolicy] | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        """`policy` is that of `recommendation`, the built-in one by default.

        `dependency` is reported as failing while events are not folded in; `sleep` pauses after a failure.
        """
        self._dependency = dependency
        self._policy = policy or (lambda: default()["recommendation"])
        self._sleep = sleep

    async def run(self, leadership: Leadership) -> None:
        """Folds events in whenever this process is the leader, until cancelled."""
        backoff = Backoff(self._sleep)
        while True:
            try:
                async with leadership.term() as term:
                    telemetry.log.info("leading", job=JOB)
                    await self.lead(term, backoff)
            except SidecarError as error:
                self._dependency.report_failure(
                    str(error), effect="recommendations learn nothing from new events", problem=FOLDING
                )
            await backoff.pause()

    async def lead(self, term: Term, backoff: Backoff) -> None:
        """Folds events in until leadership is lost. Raises SidecarError."""
        store, due = ModelStore(term.session), _Due(save=asyncio.get_running_loop().time() + SAVE_EVERY)
        folder = Folder(store, renew_after_views=lambda: self._policy().renew_after_views)
        await folder.start()
        while True:
            has_more = await self._turn(store, folder, due)
            # Not before: a leader whose first statement is refused, for want of a privilege, would try all the time.
            backoff.reset()
            self._dependency.report_success(FOLDING)
            if not has_more:
                await term.wait(LOOK_EVERY)

    async def _turn(self, store: ModelStore, folder: Folder, due: _Due) -> bool:
        """Folds in the next events, and does what is due; returns whether there is more to do."""
        if not await folder.check():
            due.is_behind = True
        page = await store.events(folder.position, PAGE)
        if not await folder.fold([Event(*event) for event in page.events]):
            due.is_behind = True
            return True
        due.is_behind |= page.is_full
        now = asyncio.get_running_loop().time()
        if now >= due.save or (due.is_behind and not page.is_full):
            due.is_behind = not await folder.save() or page.is_full
            due.save = now + SAVE_EVERY
        elif not due.is_behind:
            due.is_behind = not await folder.show()
        if due.is_behind:
            return True
        return await self._publish(folder, due, now)

    async def _publish(self, folder: Folder, due: _Due, now: float) -> bool:
        """Publishes rows, if that is due; returns whether there are more."""
        has_more = False
        if now >= due.publish:
            has_more = await folder.publish(limit=PUBLISH) == PUBLISH
            if not has_more:
                await folder.publish_popular()
                due.publish = now + PUBLISH_EVERY
        if now >= (due.refresh if due.number else due.round):
            if not due.number:
                due.round = now + REFRESH_EVERY
            due.number = await folder.refresh(due.number, limit=STEP)
            due.refresh = now + STEP_EVERY
        return has_more
