"""Knows which partitions of this region's Redis are told of changes too late, from what its relay says in each of them.

The relay says up to when everything that was committed was told: it stops saying so when it is dead, behind, or cut off, be it
from PostgreSQL or from Redis, and in a shard that has no node. A sidecar that never heard of a relay counts from its own start:
without one, nobody would ever hear of what a writer could not tell Redis, nor of what other programs change.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.ports import PARTITIONS, RelayWatermarks

# Seconds between two looks; and while each mark that is seen sooner spares PostgreSQL reads: after a start, or an outage.
EVERY = 0.25
SOON = 0.1
# What callers see of a relay that is behind.
EFFECT = "replies are marked stale"


class Waiting(Protocol):
    """Whoever waits for the end of a doubt."""

    def told(self, partition: int) -> None:
        """Takes that a partition in doubt was told of everything."""
        ...


_NO_QUARANTINES: Mapping[str, Quarantine] = {}
_NOBODY: Mapping[str, Sequence[Waiting]] = {}


class Member(Protocol):
    """A dataset of this region."""

    name: str

    def policy(self) -> DatasetPolicy:
        """Returns the policy in force."""
        ...

    def set_behind(self, partition: int, behind: bool) -> None:
        """Says whether a partition's caches are told of changes too late."""
        ...


class Region:
    """Tells each dataset which of its partitions are further behind than the dataset's staleness bound."""

    def __init__(
        self,
        watermarks: RelayWatermarks,
        members: Mapping[str, Sequence[Member]],
        *,
        quarantines: Mapping[str, Quarantine] = _NO_QUARANTINES,
        waiting: Mapping[str, Sequence[Waiting]] = _NOBODY,
        clock: Clock,
        dependencies: Dependencies,
    ) -> None:
        """`members` are the datasets of each role of a database; `quarantines` hear its marks, `waiting` when they end a doubt.

        The dependency `relay` of each dataset is said to fail while its changes reach this region too late.
        """
        self._watermarks = watermarks
        self._quarantines = quarantines
        self._waiting = waiting
        self._members = members
        self._clock = clock
        self._dependencies = dependencies
        self._started = clock.now()
        self._told_until: dict[str, dict[int, float]] = {role: {} for role in members}
        self._behind: dict[str, set[int]] = {member.name: set() for found in members.values() for member in found}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.step()
            is_ending = any(quarantine.is_ending for quarantine in self._quarantines.values())
            await asyncio.sleep(SOON if is_ending else EVERY)

    async def step(self) -> None:
        """Looks once. A shard that does not answer says nothing new."""
        footings = {
            role: [quarantine.footing(one) for one in range(PARTITIONS)] for role, quarantine in self._quarantines.items()
        }
        try:
            found = await self._watermarks.marks(list(self._members))
        except TierFailed:
            found = {}  # the nodes have said why; time passes
        for role, marks in found.items():
            told, quarantine = self._told_until[role], self._quarantines.get(role)
            for partition, mark in marks.items():
                # A failover may have taken the mark back, or a relay that leads no more may have written it.
                told[partition] = max(mark.moment, told.get(partition, 0.0))
                # Like every read: what an old primary says counts for nothing.
                if (
                    not quarantine
                    or (footing := footings[role][partition]) is None
                    or quarantine.footing(partition) is not footing
                ):
                    continue
                if quarantine.marked(partition, mark):
                    for waiting in self._waiting.get(role, ()):
                        waiting.told(partition)
        for role, members in self._members.items():
            self._judge(role, members)

    def _judge(self, role: str, members: Sequence[Member]) -> None:
        told, quarantine, now = self._told_until[role], self._quarantines.get(role), self._clock.now()
        # What is waited for so long is not waited for any longer: replies say that it did not come.
        lags = [
            max(now - told.get(partition, self._started), quarantine.waits(partition) if quarantine else 0.0)
            for partition in range(PARTITIONS)
        ]
        for member in members:
            bound = member.policy().staleness_bound
            self._tell(member, {partition for partition, lag in enumerate(lags) if lag > bound}, is_heard=bool(told))
        if quarantine:
            marked = set.intersection(*(self._behind[member.name] for member in members)) if members else set()
            for partition in range(PARTITIONS):
                quarantine.open(partition, is_open=partition in marked)

    def _tell(self, member: Member, behind: set[int], *, is_heard: bool) -> None:
        before = self._behind[member.name]
        for partition in before ^ behind:
            member.set_behind(partition, partition in behind)
        self._behind[member.name] = behind
        if bool(behind) == bool(before):
            return
        relay = self._dependencies.of("relay", member.name)
        if not behind:
            relay.works()
        elif is_heard:
            where = "of everything" if len(behind) == PARTITIONS else f"of everything in {len(behind)} partitions"
            relay.failed(f"it does not say any more that Redis was told {where}: is it running?", effect=EFFECT)
        else:
            relay.failed("none was heard of since the start: run `cache-sidecar relay` in this region", effect=EFFECT)
