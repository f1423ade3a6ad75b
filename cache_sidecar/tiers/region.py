"""Knows which partitions of this region's Redis are told of changes too late, from what its relay says in each of them.

The relay says up to when everything that was committed was told: it stops saying so when it is dead, behind, or cut off, be it
from PostgreSQL or from Redis, and in a shard that has no node. Whoever never heard of a relay has none to be behind.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from cache_sidecar import telemetry
from cache_sidecar.clock import Clock
from cache_sidecar.errors import TierFailed
from cache_sidecar.policy import DatasetPolicy
from cache_sidecar.tiers.fence import Fence
from cache_sidecar.tiers.ports import PARTITIONS, Signs

# Seconds between two looks.
EVERY = 0.25
_NO_FENCES: Mapping[str, Fence] = {}


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
        signs: Signs,
        members: Mapping[str, Sequence[Member]],
        *,
        fences: Mapping[str, Fence] = _NO_FENCES,
        clock: Clock,
    ) -> None:
        """`members` are the datasets of each role of a database, `fences` wait for the marks of their role."""
        self._signs = signs
        self._fences = fences
        self._members = members
        self._clock = clock
        self._told_until: dict[str, dict[int, float]] = {role: {} for role in members}
        self._behind: dict[str, set[int]] = {member.name: set() for found in members.values() for member in found}

    @property
    def behind(self) -> list[str]:
        """The datasets of which changes reach this region too late, in one partition at least."""
        return sorted(name for name, partitions in self._behind.items() if partitions)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(EVERY)

    async def step(self) -> None:
        """Looks once. A shard that does not answer says nothing new."""
        footings = {role: [fence.footing(one) for one in range(PARTITIONS)] for role, fence in self._fences.items()}
        try:
            found = await self._signs.marks(list(self._members))
        except TierFailed as error:
            telemetry.log.debug("how far the relay is cannot be asked", error=str(error))
            found = {}
        for role, marks in found.items():
            told, fence = self._told_until[role], self._fences.get(role)
            for partition, mark in marks.items():
                # A failover may have taken the mark back, or a relay that leads no more may have written it.
                told[partition] = max(mark.moment, told.get(partition, 0.0))
                # Like every read: what an old primary says counts for nothing.
                if fence and (footing := footings[role][partition]) and fence.footing(partition) is footing:
                    fence.marked(partition, mark)
        for role, members in self._members.items():
            self._judge(role, members)

    def _judge(self, role: str, members: Sequence[Member]) -> None:
        told, fence, now = self._told_until[role], self._fences.get(role), self._clock.now()
        # What is waited for so long is not waited for any longer: replies say that it did not come.
        lags = [
            max(now - told.get(partition, now), fence.waits(partition) if fence else 0.0) for partition in range(PARTITIONS)
        ]
        for member in members:
            bound = member.policy().staleness_bound
            self._tell(member, {partition for partition, lag in enumerate(lags) if lag > bound}, max(lags))
        if fence:
            marked = set.intersection(*(self._behind[member.name] for member in members)) if members else set()
            for partition in range(PARTITIONS):
                fence.open(partition, is_open=partition in marked)

    def _tell(self, member: Member, behind: set[int], lag: float) -> None:
        before = self._behind[member.name]
        for partition in before ^ behind:
            member.set_behind(partition, partition in behind)
        self._behind[member.name] = behind
        if behind and not before:
            telemetry.log.warning(
                "changes reach this region too late: replies say stale",
                dataset=member.name,
                partitions=len(behind),
                seconds=lag,
            )
        elif before and not behind:
            telemetry.log.info("changes reach this region in time again", dataset=member.name)
