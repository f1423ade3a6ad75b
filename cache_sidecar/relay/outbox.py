"""Tells Redis of every committed change: also of those whose writer died, had no Redis, or was another program.

Most were told by their writer already; then Redis keeps what it has, and whoever is told once more finds nothing to drop.

A failover can take Redis back to before it was told. So what was told within the last `REPLAY` seconds is told again when a
primary is another one than before, to what that one holds, and by each new leader, who cannot know, to all.

A shard that cannot be told costs nobody else anything: the others are told of what follows, and their partitions are marked.
What it is owed is told as soon as it can be; until then `Progress.told` stays where it was, and nothing of it is pruned.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence

from cache_sidecar.config.policy import Policy
from cache_sidecar.core import telemetry
from cache_sidecar.core.backoff import LONGEST, Backoff, Sleep
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.store import requests
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.outbox import Change, Progress, RelayStore
from cache_sidecar.tiers.ports import PARTITIONS, Primary, RelayL2, RelayWatermarks, partition_of

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
# The problem of a relay that cannot relay.
RELAYING = "relaying"


class Relay:
    """Follows the outbox of one database for the Redis of one region, while it leads there."""

    def __init__(
        self,
        store: RelayStore,
        l2: RelayL2,
        watermarks: RelayWatermarks,
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
        self._watermarks = watermarks
        self._policy = policy
        self._region = region
        self._roles = roles
        self._retention = retention
        self._clock = clock
        self._dependency = dependency
        self._sleep = sleep
        self._progress = Progress(0, 0)
        self._told = 0
        "How far the partitions were told that are owed nothing."
        self._owed: dict[int, int] = {}
        "From where the others have to be told."
        self._failed: TierFailed | None = None
        "Why some are owed something since the last try."
        self._histories: dict[tuple[str, int], str] | None = None
        "What names the history of each primary that was told; None before the first look of a term."
        self._primaries: Sequence[Primary] = ()
        "What the last look found."
        self._recent: deque[tuple[float, int]] = deque()
        "How far they were told at moments of the loop's time; those that a failover may undo."
        self._unknown: set[str] = set()
        "Datasets that changed and are not in the policy."
        self._looked_at: float | None = None
        "When the look began that no sign was given for."
        self._next_look = self._next_prune = self._next_try = 0.0

    async def run(self, leadership: Leadership) -> None:
        """Relays whenever it is this relay's turn, until cancelled."""
        backoff, is_said = Backoff(self._sleep), False
        while True:
            try:
                async with leadership.term() as term:
                    telemetry.log.info("leading", region=self._region, databases=self._roles)
                    is_said = False
                    backoff.reset()
                    await self.lead(term)
            except LeadershipLost as error:
                if not is_said:
                    telemetry.log.warning("not leading; standing for election", region=self._region, error=str(error))
                is_said = True
            await backoff.pause()

    async def lead(self, term: Term) -> None:
        """Relays until the term is over. Raises LeadershipLost."""
        self._histories, self._next_look, self._next_try = None, 0.0, 0.0
        while True:
            began = self._clock.now()
            try:
                is_behind = await self.turn(term)
                # Also when there is always something to tell.
                await self._prune(term)
            except TierFailed as error:
                self._dependency.failed(
                    str(error), effect="changes are not published; replies are marked stale", problem=RELAYING
                )
                self._next_look = 0.0  # what comes back may be another
                # Whatever is announced meanwhile: that would be a try for each.
                await self._sleep(min(max(RETRY, self._clock.now() - began), LONGEST))
                await term.wait(0.0)
            else:
                if self._failed is None:
                    self._dependency.works(RELAYING)
                else:
                    self._dependency.failed(
                        str(self._failed),
                        effect="changes are not published to some shards; their replies are marked stale",
                        problem=RELAYING,
                    )
                if not is_behind:
                    await term.wait(LOOK_EVERY)

    async def turn(self, term: Term) -> bool:
        """Tells Redis of the next changes, and looks at the primaries; returns whether there are more. Raises TierFailed."""
        count = 0
        if self._histories is not None:
            # News first: it need not wait for a look, nor for a primary that cannot be looked at.
            count = await self.step(term)
        if await self.look():
            count = await self.step(term)
        return count == PAGE

    async def look(self) -> bool:
        """Finds out which partitions may have forgotten what they were told; if it is time for a look."""
        now, began = asyncio.get_running_loop().time(), self._clock.now()
        if now < self._next_look:
            return False
        self._primaries = await self._watermarks.primaries()
        if self._histories is None:
            self._progress = await self._store.progress(self._region)
            self._told = self._progress.told
            self._owed = dict.fromkeys(range(PARTITIONS), self._progress.settled)
            self._recent.clear()
        histories = self._histories or {}
        for primary in self._primaries:
            if primary.history not in (None, histories.get(primary.address)):
                self._owed.update(dict.fromkeys(primary.partitions, self._progress.settled))
        # One that does not answer is the same as before until it says otherwise.
        known = {primary.address: primary.history or histories.get(primary.address) for primary in self._primaries}
        self._histories = {address: history for address, history in known.items() if history is not None}
        self._recent.append((now, self._progress.told))
        while self._recent and self._recent[0][0] <= now - REPLAY:
            self._progress = self._progress._replace(settled=self._recent.popleft()[1])
        self._next_look, self._looked_at = now + LOOK_EVERY, began
        return True

    async def step(self, term: Term) -> int:
        """Tells Redis of the next changes, then remembers that they are told; returns how many there were."""
        await self._make_up()
        changes = await self._store.after(self._told, limit=PAGE)
        if changes:
            self._take_down(await self._tell(changes), self._told)
            self._told = changes[-1].position
        told = min(self._owed.values(), default=self._told)
        if told > self._progress.told:
            self._progress = self._progress._replace(told=told)
            await self._store.remember(term, self._region, self._progress)
        if len(changes) < PAGE and self._looked_at is not None:
            # Of the look, and to the nodes of the look: a primary that took over since then may have been told less.
            answering = [primary for primary in self._primaries if primary.history is not None]
            marked = [one._replace(partitions=one.partitions.difference(self._owed)) for one in answering]
            await self._watermarks.caught_up(self._roles, self._looked_at, marked)
            self._looked_at = None
        return len(changes)

    async def _make_up(self) -> None:
        """Tells the partitions that are owed something, of the primaries that answer.

        Not more often, whatever is announced meanwhile: all that they are owed is told again each time, and the more that is,
        the longer is the pause.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not self._owed or began < self._next_try:
            return
        self._failed = None
        answering = {p for primary in self._primaries if primary.history is not None for p in primary.partitions}
        due = {partition: position for partition, position in self._owed.items() if partition in answering}
        position = min(due.values(), default=self._told)
        while due and position < self._told:
            changes = [change for change in await self._store.after(position, limit=PAGE) if change.position <= self._told]
            if not changes:
                break
            wanted = [change for change in changes if due.get(partition_of(change.id), self._told) < change.position]
            failed = await self._tell(wanted)
            self._take_down(failed, position)
            for partition in failed:
                due.pop(partition, None)
            position = changes[-1].position
        for partition in due:
            del self._owed[partition]
        if self._owed:
            self._next_try = loop.time() + min(max(RETRY, loop.time() - began), LONGEST)

    def _take_down(self, failed: Mapping[int, TierFailed], position: int) -> None:
        """Remembers who was not told what follows a position."""
        for partition, error in failed.items():
            self._owed.setdefault(partition, position)
            self._failed = error

    async def _tell(self, changes: Sequence[Change]) -> Mapping[int, TierFailed]:
        """Returns the partitions that could not be told, each with the reason."""
        # Only the last change of an id matters, and the changes of an id come in the order of their versions.
        latest: dict[str, dict[str, int]] = {}
        for change in changes:
            latest.setdefault(change.dataset, {})[change.id] = change.version
        failed: dict[int, TierFailed] = {}
        for dataset, versions in latest.items():
            if dataset not in self._policy:
                self._say_unknown(dataset)
            else:
                failed |= await self._l2.mark(dataset, versions, ttl=self._policy[dataset].l2_ttl)
        return failed

    def _say_unknown(self, dataset: str) -> None:
        """Logs, once, that changes of a dataset reach nobody: it is a newer version's, or a trigger has its name wrong."""
        if dataset not in self._unknown:
            self._unknown.add(dataset)
            telemetry.log.warning(
                "changes of a dataset that this version does not know are not relayed",
                dataset=dataset,
                known=sorted(self._policy),
            )

    async def _prune(self, term: Term) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_prune:
            return
        await self._store.remember(term, self._region, self._progress)  # what is settled moves also when nothing changes
        is_done = await self._store.prune(changes_after=self._retention, requests_after=requests.KEPT)
        self._next_prune = now + (PRUNE_EVERY if is_done else 0)
