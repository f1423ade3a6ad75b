"""Tells Redis of every committed change: also of those whose writer died, had no Redis, or was another program.

Most were told by their writer already; then Redis keeps what it has, and whoever is told once more finds nothing to drop.

A failover can take Redis back to before it was told. So what was told within the last `REPLAY` seconds is told again when a
primary is another one than before, and by each new leader, who cannot know.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from cache_sidecar import telemetry
from cache_sidecar.backoff import LONGEST, Backoff, Sleep
from cache_sidecar.clock import Clock
from cache_sidecar.dependencies import Dependency
from cache_sidecar.errors import TierFailed
from cache_sidecar.policy import Policy
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.outbox import Change, Progress, RelayStore
from cache_sidecar.tiers.ports import RelayL2, Signs

# Changes told in one go.
PAGE = 20_000
# Seconds between two looks at the primaries, and for changes when nobody wakes the relay; each ends in a sign to the sidecars,
# up to when Redis was told of everything.
LOOK_EVERY = 0.25
# Between attempts after a failure, at least: of what a writer could not tell a primary that lives, the sidecars hear from here,
# and their replies are not marked stale. So it is no longer than `coherence.staleness_bound` allows, and less than half of it.
RETRY = 0.2
# Between two clean-ups.
PRUNE_EVERY = 30.0
# A replica further behind than this many seconds is not made a primary: 10 node timeouts of 15 s, and a margin.
REPLAY = 300.0
# A repeat of a request gets its first reply for so many seconds.
REQUESTS_KEPT = 86_400.0
# What may fail.
LEADING, RELAYING = "leading", "relaying"


class Relay:
    """Follows the outbox of one database for the Redis of one region, while it leads there."""

    def __init__(
        self,
        store: RelayStore,
        l2: RelayL2,
        signs: Signs,
        policy: Policy,
        *,
        region: str,
        roles: Sequence[str],
        retention: float,
        clock: Clock,
        dependency: Dependency,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`roles` are what the database is to the shop: `catalog`, `user`; `sleep` waits between attempts after a failure.

        `dependency` is said to fail while changes are not relayed.
        """
        self._store = store
        self._l2 = l2
        self._signs = signs
        self._policy = policy
        self._region = region
        self._roles = roles
        self._retention = retention
        self._clock = clock
        self._dependency = dependency
        self._sleep = sleep
        self._progress = Progress(0, 0)
        self._primaries: frozenset[str] | None = None
        "The replication ids of the primaries that were told; None before the first look of a term."
        self._recent: deque[tuple[float, int]] = deque()
        "How far they were told at moments of the loop's time; those that a failover may undo."
        self._looked_at: float | None = None
        "When the look began that no sign was given for."
        self._next_look = self._next_prune = 0.0

    async def run(self, leadership: Leadership) -> None:
        """Relays whenever it is this relay's turn, until cancelled."""
        backoff = Backoff(self._sleep)
        while True:
            try:
                async with leadership.term() as term:
                    telemetry.log.info("leading", region=self._region, databases=self._roles)
                    self._dependency.works(LEADING)
                    backoff.reset()
                    await self.lead(term)
            except LeadershipLost as error:
                self._dependency.failed(str(error), effect="not leading: another relay may, or none", problem=LEADING)
            await backoff.pause()

    async def lead(self, term: Term) -> None:
        """Relays until the term is over. Raises LeadershipLost."""
        self._primaries, self._next_look = None, 0.0
        while True:
            began = self._clock.now()
            try:
                is_behind = await self.turn(term)
                # Also when there is always something to tell.
                await self._prune(term)
            except TierFailed as error:
                self._dependency.failed(str(error), effect="changes are not relayed: replies say stale", problem=RELAYING)
                self._next_look = 0.0  # what comes back may be another
                # Whatever is announced meanwhile: that would be a try for each. All that is untold is told again each time,
                # also to the primaries that live: the more that is, the longer is the pause.
                await self._sleep(min(max(RETRY, self._clock.now() - began), LONGEST))
                await term.wait(0.0)
            else:
                self._dependency.works(RELAYING)
                if not is_behind:
                    await term.wait(LOOK_EVERY)

    async def turn(self, term: Term) -> bool:
        """Tells Redis of the next changes, and looks at the primaries; returns whether there are more. Raises TierFailed."""
        count = 0
        if self._primaries is not None:
            # News first: it need not wait for a look, nor for a primary that cannot be looked at.
            count = await self.step(term)
        if await self.look():
            count = await self.step(term)
        return count == PAGE

    async def look(self) -> bool:
        """Tells again what may be forgotten when the primaries are not those of the last look; if it is time for a look."""
        now, began = asyncio.get_running_loop().time(), self._clock.now()
        if now < self._next_look:
            return False
        primaries = await self._signs.replication_ids()
        if primaries != self._primaries:
            if self._primaries is None:
                self._progress = await self._store.progress(self._region)
            self._recent.clear()
            await self._replay()
            self._primaries = primaries
        self._recent.append((now, self._progress.told))
        while self._recent and self._recent[0][0] <= now - REPLAY:
            self._progress = self._progress._replace(settled=self._recent.popleft()[1])
        self._next_look, self._looked_at = now + LOOK_EVERY, began
        return True

    async def _replay(self) -> None:
        position, until = self._progress.settled, self._progress.told
        while position < until:
            changes = [change for change in await self._store.after(position, limit=PAGE) if change.position <= until]
            if not changes:
                return
            await self._tell(changes)
            position = changes[-1].position

    async def step(self, term: Term) -> int:
        """Tells Redis of the next changes, then remembers that they are told; returns how many there were."""
        changes = await self._store.after(self._progress.told, limit=PAGE)
        if changes:
            await self._tell(changes)
            self._progress = self._progress._replace(told=changes[-1].position)
            await self._store.remember(term, self._region, self._progress)
        if len(changes) < PAGE and self._looked_at is not None:
            # Of the look, not of now: a primary that took over since then may have been told less.
            await self._signs.caught_up(self._roles, self._looked_at)
            self._looked_at = None
        return len(changes)

    async def _tell(self, changes: Sequence[Change]) -> None:
        # Only the last change of an id matters, and the changes of an id come in the order of their versions.
        latest: dict[str, dict[str, int]] = {}
        for change in changes:
            latest.setdefault(change.dataset, {})[change.id] = change.version
        for dataset, versions in latest.items():
            if dataset in self._policy:
                await self._l2.mark(dataset, versions, ttl=self._policy[dataset].l2_ttl)

    async def _prune(self, term: Term) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_prune:
            return
        await self._store.remember(term, self._region, self._progress)  # what is settled moves also when nothing changes
        is_done = await self._store.prune(changes_after=self._retention, requests_after=REQUESTS_KEPT)
        self._next_prune = now + (PRUNE_EVERY if is_done else 0)
