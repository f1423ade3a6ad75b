"""Knows when this region's Redis is told of changes too late, from what its relay says there.

The relay says up to when everything that was committed was told: it stops saying so when it is dead, behind, or cut off, be it
from PostgreSQL or from Redis. Whoever never heard of a relay has none to be behind.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from cache_sidecar import telemetry
from cache_sidecar.clock import Clock
from cache_sidecar.errors import TierFailed
from cache_sidecar.policy import DatasetPolicy
from cache_sidecar.tiers.fence import Fence
from cache_sidecar.tiers.ports import Signs

# Seconds between two looks.
EVERY = 0.25
_NO_FENCES: Mapping[str, Fence] = {}


class Member(Protocol):
    """A dataset of this region."""

    name: str

    def policy(self) -> DatasetPolicy:
        """Returns the policy in force."""
        ...

    def set_behind(self, behind: bool) -> None:
        """Says whether its caches are told of changes too late."""
        ...


class Region:
    """Tells each dataset whether its region is further behind than the dataset's staleness bound."""

    def __init__(
        self,
        signs: Signs,
        members: Mapping[str, Sequence[Member]],
        *,
        fences: Mapping[str, Fence] = _NO_FENCES,
        clock: Clock,
    ) -> None:
        """`members` are the datasets of each role of a database, `fences` wait for the signs of their role."""
        self._signs = signs
        self._fences = fences
        self._members = members
        self._clock = clock
        self._told_until: dict[str, float] = {}
        self._behind: set[str] = set()

    @property
    def behind(self) -> list[str]:
        """The datasets whose changes reach this region too late."""
        return sorted(self._behind)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(EVERY)

    async def step(self) -> None:
        """Looks once. A Redis that does not answer says nothing new."""
        try:
            told = await self._signs.told_until(list(self._members))
        except TierFailed as error:
            telemetry.log.debug("how far the relay is cannot be asked", error=str(error))
        else:
            for role, moment in told.items():
                # A failover may have taken the sign back, or a relay that leads no more may have written it.
                self._told_until[role] = max(moment, self._told_until.get(role, 0.0))
                if fence := self._fences.get(role):
                    fence.told(moment)
        for role, moment in self._told_until.items():
            for member in self._members[role]:
                self._judge(member, self._clock.now() - moment)

    def _judge(self, member: Member, lag: float) -> None:
        is_behind = lag > member.policy().staleness_bound
        if is_behind == (member.name in self._behind):
            return
        (self._behind.add if is_behind else self._behind.discard)(member.name)
        member.set_behind(is_behind)
        if is_behind:
            telemetry.log.warning("changes reach this region too late: replies say stale", dataset=member.name, seconds=lag)
        else:
            telemetry.log.info("changes reach this region in time again", dataset=member.name)
