"""Knows when this region's Redis is told of changes too late, from what its relay says there.

The relay says up to when everything that was committed was told: it stops saying so when it is dead, behind, or cut off, be it
from PostgreSQL or from Redis. A sidecar that never heard of a relay counts from its own start: without one, nobody would ever
hear of what a writer could not tell Redis, nor of what other programs change.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from cache_sidecar.clock import Clock
from cache_sidecar.dependencies import Dependencies
from cache_sidecar.errors import TierFailed
from cache_sidecar.policy import DatasetPolicy
from cache_sidecar.tiers.ports import Signs

# Seconds between two looks.
EVERY = 0.25
# What callers see of a relay that is behind.
EFFECT = "replies say stale"


class Waiting(Protocol):
    """Whoever waits for the relay's signs."""

    def told(self, moment: float) -> None:
        """Takes that what was committed before a moment was told to the primaries of that moment."""
        ...


_NOBODY: Mapping[str, Sequence[Waiting]] = {}


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
        waiting: Mapping[str, Sequence[Waiting]] = _NOBODY,
        clock: Clock,
        dependencies: Dependencies,
    ) -> None:
        """`members` are the datasets of each role of a database, `waiting` is told the signs of a role.

        The dependency `relay` of each dataset is said to fail while its changes reach this region too late.
        """
        self._signs = signs
        self._waiting = waiting
        self._members = members
        self._clock = clock
        self._dependencies = dependencies
        self._started = clock.now()
        self._told_until: dict[str, float] = {}
        self._behind: set[str] = set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(EVERY)

    async def step(self) -> None:
        """Looks once. A Redis that does not answer says nothing new."""
        try:
            told = await self._signs.told_until(list(self._members))
        except TierFailed:
            pass  # the node has said why; time passes
        else:
            for role, moment in told.items():
                # A failover may have taken the sign back, or a relay that leads no more may have written it.
                self._told_until[role] = max(moment, self._told_until.get(role, 0.0))
                for waiting in self._waiting.get(role, ()):
                    waiting.told(moment)
        for role, members in self._members.items():
            until = self._told_until.get(role, self._started)
            for member in members:
                self._judge(member, self._clock.now() - until, is_heard=role in self._told_until)

    def _judge(self, member: Member, lag: float, *, is_heard: bool) -> None:
        is_behind = lag > member.policy().staleness_bound
        if is_behind == (member.name in self._behind):
            return
        (self._behind.add if is_behind else self._behind.discard)(member.name)
        member.set_behind(is_behind)
        relay = self._dependencies.of("relay", member.name)
        if not is_behind:
            relay.works()
        elif is_heard:
            relay.failed("it does not say any more that Redis was told of everything: is it running?", effect=EFFECT)
        else:
            relay.failed("none was heard of since the start: run `cache-sidecar relay` in this region", effect=EFFECT)
