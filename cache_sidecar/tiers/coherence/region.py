"""Finds the partitions of this region's Redis in which the relay publishes too late, by the watermarks it writes there.

A watermark says up to when everything committed has been published. It stops advancing when the relay is dead, behind, or cut
off from PostgreSQL or from Redis, and in a shard that has no node. Until a sidecar has seen a first watermark it counts from
its own start: without a relay, nothing would ever publish what a writer could not, or what other programs change.

A watermark that is not a time, or is from the future, is ignored: believed, it would keep a lag from ever being noticed.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import CLOCK_SKEW, Clock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.core.tasks import poll
from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.ports import PARTITIONS, RelayWatermarks, Watermark

# Seconds between two steps; and while each watermark that is read sooner spares PostgreSQL reads: after a start, or an outage.
EVERY = 0.25
SOON = 0.1
# Otherwise they are read only if the last ones are this old, or this part of the smallest staleness bound, or something may lag
# by them: each sidecar reads hundreds. What has been published since is not known then, so a lag is noticed no later for that.
READ_EVERY, PART = 1.0, 0.1
# Seconds between two log lines about watermarks that no relay can have written.
LOG_EVERY = 60.0
# What callers see of a relay that is behind.
EFFECT = "replies are marked stale"


class Waiting(Protocol):
    """What waits for the end of a doubt."""

    def on_doubt_ended(self, partition: int) -> None:
        """The quarantine's doubt of a partition has ended."""
        ...


_NO_QUARANTINES: Mapping[str, Quarantine] = {}
_NONE_WAITING: Mapping[str, Sequence[Waiting]] = {}


class Member(Protocol):
    """A dataset of this region."""

    name: str

    def policy(self) -> DatasetPolicy:
        """Returns the policy in effect."""
        ...

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Sets whether the relay publishes a partition's changes too late."""
        ...


class Region:
    """Marks, for each dataset, the partitions that lag by more than the dataset's staleness bound."""

    def __init__(
        self,
        watermarks: RelayWatermarks,
        members: Mapping[str, Sequence[Member]],
        *,
        quarantines: Mapping[str, Quarantine] = _NO_QUARANTINES,
        waiting: Mapping[str, Sequence[Waiting]] = _NONE_WAITING,
        clock: Clock,
        dependencies: Dependencies,
    ) -> None:
        """`members` are the datasets by database role; so are the `quarantines` that watermarks end, and who is `waiting`.

        The dependency `relay` of each dataset fails while the dataset's changes reach this region too late.
        """
        self._watermarks = watermarks
        self._quarantines = quarantines
        self._waiting = waiting
        self._members = members
        self._clock = clock
        self._dependencies = dependencies
        self._started = clock.now()
        self._read_at = -math.inf
        "When the last step that read the watermarks began, in the event loop's time."
        self._published_until: dict[str, dict[int, float]] = {role: {} for role in members}
        "By role and partition: everything committed before that has been published, in seconds since the epoch."
        self._lagging: dict[str, set[int]] = {member.name: set() for found in members.values() for member in found}
        self._impossible: dict[str, float] = {}
        "By role, how many seconds ahead of this clock a watermark was that the last step ignored."
        self._log_limit = LogLimit(every=LOG_EVERY)

    def lags(self) -> Mapping[str, float]:
        """Returns, by role, for how many seconds a change of its database may be unpublished in some partition."""
        now = self._clock.now()
        return {
            role: now - min(published.get(partition, self._started) for partition in range(PARTITIONS))
            for role, published in self._published_until.items()
        }

    def lagging(self) -> Mapping[str, int]:
        """Returns the number of partitions that are marked as lagging, by dataset."""
        return {name: len(partitions) for name, partitions in self._lagging.items()}

    async def run(self) -> None:
        """Runs steps until cancelled."""
        await poll(lambda: SOON if any(one.is_ending for one in self._quarantines.values()) else EVERY, self._step_cheaply)

    async def _step_cheaply(self) -> None:
        """Makes a step, unless by the watermarks that are known, and new enough, nothing can lag."""
        bound = min((member.policy().staleness_bound for members in self._members.values() for member in members), default=10.0)
        # Those that end a doubt have to be read after it began.
        shared = not any(one.is_doubting for one in self._quarantines.values())
        now = asyncio.get_running_loop().time()
        is_new = now - self._read_at < min(READ_EVERY, PART * bound)
        if shared and is_new and not any(self._may_lag(role, members) for role, members in self._members.items()):
            return
        self._read_at = now
        await self.step(shared=shared)

    async def step(self, *, shared: bool = False) -> None:
        """Reads the watermarks once, and marks what lags. A node that does not answer has no new ones.

        With `shared`, those that another sidecar may have read just before: they end no doubt.
        """
        footings = {
            role: [quarantine.footing(partition) for partition in range(PARTITIONS)]
            for role, quarantine in self._quarantines.items()
            if not shared
        }
        try:
            found = await self._watermarks.read_watermarks(list(self._members), shared=shared)
        except TierFailed:
            found = {}  # reported by the nodes; the lag grows meanwhile
        for role, watermarks in found.items():
            published, quarantine = self._published_until[role], self._quarantines.get(role)
            for partition, watermark in self._possible(role, watermarks).items():
                # Never back: a failover may have restored an old watermark, or a relay that is no longer the leader wrote it.
                published[partition] = max(watermark.moment, published.get(partition, 0.0))
                if quarantine is None or shared:
                    continue
                footing = footings[role][partition]
                # As for every read: the reply may come from an old primary, that woke up after its partition went elsewhere.
                if footing is None or quarantine.footing(partition) is not footing:
                    continue
                if quarantine.on_watermark(partition, watermark):
                    for waiting in self._waiting.get(role, ()):
                        waiting.on_doubt_ended(partition)
        for role, members in self._members.items():
            if self._may_lag(role, members):
                self._mark_lagging(role, members)

    def _may_lag(self, role: str, members: Sequence[Member]) -> bool:
        """Whether a partition lags, or did: mostly not, and to find out which takes fifty times as long."""
        published, quarantine = self._published_until[role], self._quarantines.get(role)
        if quarantine and quarantine.is_waiting:
            return True
        if not members:
            return False
        bound = min(member.policy().staleness_bound for member in members)
        return (
            len(published) < PARTITIONS
            or any(self._lagging[member.name] for member in members)
            or self._clock.now() - min(published.values()) > bound
        )

    def _possible(self, role: str, watermarks: Mapping[int, Watermark]) -> Mapping[int, Watermark]:
        """Returns the watermarks that a relay can have written, whose clock is right within CLOCK_SKEW seconds."""
        limit = self._clock.now() + CLOCK_SKEW
        found = {p: mark for p, mark in watermarks.items() if math.isfinite(mark.moment) and mark.moment <= limit}
        self._impossible.pop(role, None)
        if len(found) < len(watermarks):
            partition, mark = next((p, mark) for p, mark in watermarks.items() if p not in found)
            self._impossible[role] = mark.moment - self._clock.now()
            if self._log_limit.should_log():
                telemetry.log.error(
                    "ignoring watermarks from the future: another program wrote them, or the relay's clock is ahead",
                    database=role,
                    partition=partition,
                    seconds_ahead=round(self._impossible[role], 1) if math.isfinite(mark.moment) else str(mark.moment),
                    ignored=len(watermarks) - len(found),
                )
        return found

    def _mark_lagging(self, role: str, members: Sequence[Member]) -> None:
        published, quarantine, now = self._published_until[role], self._quarantines.get(role), self._clock.now()
        # A doubt that lasts that long counts as a lag, too: replies say so instead of all being read from PostgreSQL.
        lags = [
            max(now - published.get(partition, self._started), quarantine.waits(partition) if quarantine else 0.0)
            for partition in range(PARTITIONS)
        ]
        for member in members:
            bound = member.policy().staleness_bound
            lagging, before = {partition for partition, lag in enumerate(lags) if lag > bound}, self._lagging[member.name]
            for partition in before ^ lagging:
                member.set_lagging(partition, partition in lagging)
            self._lagging[member.name] = lagging
            if bool(lagging) != bool(before):
                self._report(member, lagging, has_relay=bool(published), is_ahead=role in self._impossible)
        if quarantine:
            marked = set.intersection(*(self._lagging[member.name] for member in members)) if members else set()
            for partition in range(PARTITIONS):
                quarantine.open(partition, is_open=partition in marked)

    def _report(self, member: Member, lagging: set[int], *, has_relay: bool, is_ahead: bool) -> None:
        relay = self._dependencies.of("relay", member.name)
        if not lagging:
            relay.report_success()
        elif is_ahead:
            relay.report_failure(f"its watermarks are over {CLOCK_SKEW:g} s in the future: set the clocks", effect=EFFECT)
        elif has_relay:
            where = "" if len(lagging) == PARTITIONS else f" in {len(lagging)} partitions"
            relay.report_failure(f"its watermark has stopped advancing{where}: is it running?", effect=EFFECT)
        else:
            relay.report_failure("no relay was seen since the start: run `cache-sidecar relay` in this region", effect=EFFECT)
