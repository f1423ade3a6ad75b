"""Publishes every committed change to Redis, also those of writers that died, could not reach Redis, or are other programs.

Writers publish most changes themselves. Redis then keeps the newer version it has, and sidecars find nothing to drop.

A failover can take Redis back to before a change was published. So changes published in the last `REPLAY` seconds are published
again: to a node whenever it turns out to be another primary than before, and to all nodes by each new leader, which cannot know
what its predecessor saw.

A shard that does not answer does not hold up the others: they get what follows, and their partitions are marked as caught up.
What the failed shard missed is published once it answers; until then `Progress.told` stays where it was, and nothing after it
is pruned.

Redis keeps a newer version than the one that is published: usually the row's next one. Rows are asked for theirs, for a version
that was forged would hide this change, and every later one.
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
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.store import requests
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.outbox import Change, Progress, RelayStore
from cache_sidecar.store.versions import Table
from cache_sidecar.tiers.ports import PARTITIONS, Newer, Primary, RelayL2, RelayWatermarks, partition_of

# Changes published in one batch.
PAGE = 20_000
# Seconds between two checks of the primaries, and between two queries for changes when no notification arrives. Each check ends
# with a watermark for the sidecars: the time up to which Redis has every change.
LOOK_EVERY = 0.25
# Minimum pause after a failure. When a writer could not publish to a primary that is up, sidecars learn of the change only from
# here, while their replies are not marked stale. So this must stay below half of `coherence.staleness_bound`.
RETRY = 0.2
# Seconds between two prunings.
PRUNE_EVERY = 30.0
# A replica that lags by more than this many seconds is not promoted: 10 node timeouts of 15 s, and a margin.
REPLAY = 300.0
# Rows that are asked for their versions at once.
ROWS_AT_ONCE = 1000
# Seconds between two log lines about versions that PostgreSQL does not have.
LOG_NEWER_EVERY = 60.0
# The name of the problem that the relay reports to its dependency.
RELAYING = "relaying"


class Relay:
    """Publishes the outbox of one database to the Redis of one region, while it is the leader there."""

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
        tables: Mapping[str, Table],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`roles` are those of the database, such as `catalog` and `user`; `sleep` pauses after a failure.

        `tables` are those of the datasets, to ask for the versions of rows.

        `retention` is in seconds. `dependency` is reported as failing while changes are not published.
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
        self._tables = tables
        self._sleep = sleep
        self._newer_limit = LogLimit(every=LOG_NEWER_EVERY)
        self._progress = Progress(0, 0)
        self.changes = 0
        "Changes that were published since the start, each counted once."
        self._published = 0
        "The position up to which everything is published to the partitions that lack nothing."
        self._lacking: dict[int, int] = {}
        "For each of the other partitions, the position after which it may lack changes."
        self._failed: TierFailed | None = None
        "Why some partitions still lack changes after the last attempt."
        self._histories: dict[tuple[str, int], str] | None = None
        "The replication id of each primary, by address; None before the first check of a term."
        self._primaries: Sequence[Primary] = ()
        "The result of the last check."
        self._recent: deque[tuple[float, int]] = deque()
        "(loop time, position published by then) for the last `REPLAY` seconds: what a failover may undo."
        self._unknown: set[str] = set()
        "Datasets that changed but are not in the policy."
        self._checked_at: float | None = None
        "When the last check began, if its watermark has not been written yet."
        self._next_check = self._next_prune = self._next_try = 0.0

    @property
    def lacking(self) -> int:
        """How many partitions lack changes that Redis did not take."""
        return len(self._lacking) if self._failed is not None else 0

    async def run(self, leadership: Leadership) -> None:
        """Relays whenever this process is the leader, until cancelled."""
        backoff, lost = Backoff(self._sleep), LogLimit()
        while True:
            try:
                async with leadership.term() as term:
                    telemetry.log.info("leading", region=self._region, databases=self._roles)
                    lost.reset()
                    backoff.reset()
                    await self.lead(term)
            except LeadershipLost as error:
                if lost.should_log():
                    telemetry.log.warning("not leading; standing for election", region=self._region, error=str(error))
            await backoff.pause()

    async def lead(self, term: Term) -> None:
        """Relays until leadership is lost. Raises LeadershipLost."""
        self._histories, self._next_check, self._next_try = None, 0.0, 0.0
        while True:
            began = self._clock.now()
            try:
                has_more = await self.turn(term)
                # Here too, as a busy outbox may never run empty.
                await self._prune(term)
            except TierFailed as error:
                self._dependency.report_failure(
                    str(error), effect="changes are not published; replies are marked stale", problem=RELAYING
                )
                self._next_check = 0.0  # what answers next may be another primary
                # Notifications don't cut this pause short: each would cause an attempt.
                await self._sleep(min(max(RETRY, self._clock.now() - began), LONGEST))
                await term.wait(0.0)
            else:
                if self._failed is None:
                    self._dependency.report_success(RELAYING)
                else:
                    self._dependency.report_failure(
                        str(self._failed),
                        effect="changes are not published to some shards; their replies are marked stale",
                        problem=RELAYING,
                    )
                if not has_more:
                    await term.wait(LOOK_EVERY)

    async def turn(self, term: Term) -> bool:
        """Publishes the next changes and checks the primaries; returns whether more changes are waiting. Raises TierFailed."""
        count = 0
        if self._histories is not None:
            # New changes first: they must not wait for the check, nor for a primary that does not answer it.
            count = await self.step(term)
        if await self.check_primaries():
            count = await self.step(term)
        return count == PAGE

    async def check_primaries(self) -> bool:
        """If a check is due, finds the partitions that may have lost changes in a failover; returns whether it was due."""
        now, began = asyncio.get_running_loop().time(), self._clock.now()
        if now < self._next_check:
            return False
        self._primaries = await self._watermarks.primaries()
        if self._histories is None:
            self._progress = await self._store.progress(self._region)
            self._published = self._progress.told
            self._lacking = dict.fromkeys(range(PARTITIONS), self._progress.settled)
            self._recent.clear()
        histories = self._histories or {}
        for primary in self._primaries:
            if primary.history not in (None, histories.get(primary.address)):
                self._lacking.update(dict.fromkeys(primary.partitions, self._progress.settled))
        # A primary that does not answer counts as unchanged.
        known = {primary.address: primary.history or histories.get(primary.address) for primary in self._primaries}
        self._histories = {address: history for address, history in known.items() if history is not None}
        self._recent.append((now, self._progress.told))
        while self._recent and self._recent[0][0] <= now - REPLAY:
            self._progress = self._progress._replace(settled=self._recent.popleft()[1])
        self._next_check, self._checked_at = now + LOOK_EVERY, began
        return True

    async def step(self, term: Term) -> int:
        """Publishes the next changes, then stores the position reached; returns how many changes there were."""
        await self._catch_up()
        changes = await self._store.after(self._published, limit=PAGE)
        if changes:
            self._record_failures(await self._publish(changes), self._published)
            self._published = changes[-1].position
            self.changes += len(changes)
        told = min(self._lacking.values(), default=self._published)
        if told > self._progress.told:
            self._progress = self._progress._replace(told=told)
            await self._store.remember(term, self._region, self._progress)
        if len(changes) < PAGE and self._checked_at is not None:
            # The time of the check, for the nodes it found: a primary promoted since may lack changes that its predecessor had.
            answering = [primary for primary in self._primaries if primary.history is not None]
            marked = [one._replace(partitions=one.partitions.difference(self._lacking)) for one in answering]
            await self._watermarks.write_watermarks(self._roles, self._checked_at, marked)
            self._checked_at = None
        return len(changes)

    async def _catch_up(self) -> None:
        """Publishes what partitions lack, as far as their primaries answer.

        Each attempt publishes everything they lack again, so the pause before the next one is as long as the attempt took,
        whatever is announced meanwhile.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not self._lacking or began < self._next_try:
            return
        self._failed = None
        answering = {p for primary in self._primaries if primary.history is not None for p in primary.partitions}
        due = {partition: position for partition, position in self._lacking.items() if partition in answering}
        position = min(due.values(), default=self._published)
        while due and position < self._published:
            changes = [change for change in await self._store.after(position, limit=PAGE) if change.position <= self._published]
            if not changes:
                break
            wanted = [change for change in changes if due.get(partition_of(change.id), self._published) < change.position]
            failed = await self._publish(wanted)
            self._record_failures(failed, position)
            for partition in failed:
                due.pop(partition, None)
            position = changes[-1].position
        for partition in due:
            del self._lacking[partition]
        if self._lacking:
            self._next_try = loop.time() + min(max(RETRY, loop.time() - began), LONGEST)

    def _record_failures(self, failed: Mapping[int, TierFailed], position: int) -> None:
        """Records that partitions may lack what follows a position."""
        for partition, error in failed.items():
            self._lacking.setdefault(partition, position)
            self._failed = error

    async def _publish(self, changes: Sequence[Change]) -> Mapping[int, TierFailed]:
        """Publishes changes; returns the partitions where that failed, each with the error."""
        # Only the last change of an id matters; changes of one id come in the order of their versions.
        latest: dict[str, dict[str, int]] = {}
        for change in changes:
            latest.setdefault(change.dataset, {})[change.id] = change.version
        failed: dict[int, TierFailed] = {}
        for dataset, versions in latest.items():
            if dataset not in self._policy:
                self._warn_unknown(dataset)
            else:
                published = await self._l2.invalidate_many(dataset, versions, ttl=self._policy[dataset].l2_ttl)
                failed |= published.failed
                if published.newer and dataset in self._tables:
                    failed |= await self._retract(dataset, published.newer)
        return failed

    async def _retract(self, dataset: str, newer: Mapping[str, int]) -> Mapping[int, TierFailed]:
        """Retracts versions in Redis that rows do not have; returns the partitions where that failed, each with the error."""
        failed: dict[int, TierFailed] = {}
        ids = list(newer)
        for first in range(0, len(ids), ROWS_AT_ONCE):
            some = ids[first : first + ROWS_AT_ONCE]
            # Asked after the versions were found in Redis: whatever was committed has its row by now.
            rows = await self._store.versions(self._tables[dataset], some)
            found = {id: Newer(newer[id], rows.get(id)) for id in some if rows.get(id, 0) < newer[id]}
            forged = [one for one in found.values() if one.current is not None]  # without a row, it may have just been deleted
            if forged and self._newer_limit.should_log():
                telemetry.log.error(
                    "ALARM: dropped what is newer than PostgreSQL: it was forged, or PostgreSQL lost a commit",
                    dataset=dataset,
                    count=len(forged),
                    version=forged[0].held,
                    postgres=forged[0].current,
                    since_last=self._newer_limit.count,
                )
            try:
                if found:
                    await self._l2.retract(dataset, found, ttl=self._policy[dataset].l2_ttl)
            except TierFailed as error:
                failed |= {partition_of(id): error for id in found}
        return failed

    def _warn_unknown(self, dataset: str) -> None:
        """Warns once about changes of an unknown dataset: a newer version has it, or a trigger has a wrong name."""
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
        await self._store.remember(term, self._region, self._progress)  # `settled` advances even when nothing changes
        is_done = await self._store.prune(changes_after=self._retention, requests_after=requests.KEPT)
        self._next_prune = now + (PRUNE_EVERY if is_done else 0)
