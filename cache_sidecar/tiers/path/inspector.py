"""Compares what L1 served with PostgreSQL, behind the replies, and counts what was older than it may be.

When a change was committed, nobody tells. So a hit that PostgreSQL knows better than is looked at once more when the staleness
bound has passed since: if a read would still be answered with less than PostgreSQL had then, the bound is broken, whenever the
change was committed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.sampler import Sample
from cache_sidecar.tiers.ports import Load, Row, UnreadableRow

# Seconds between two looks at what was sampled.
EVERY = 1.0
# Hits that may wait for the bound to pass; more are left out.
MAX_DOUBTS = 10_000


@dataclass
class Inspection:
    """Counts of sampled hits since the start."""

    fresh: int = 0
    "As new as PostgreSQL."
    stale: int = 0
    "Older, within the bound."
    violations: int = 0
    "Older, and still served so when the bound had passed."


class _Doubt(NamedTuple):
    """A hit that was older than what PostgreSQL held."""

    since: float
    "When PostgreSQL was asked, in seconds since the epoch."
    sample: Sample
    row: Row | None
    "What PostgreSQL held; None when it had no such row."


class Inspector:
    """Inspects the hits of one dataset."""

    def __init__(self, dataset: Dataset, load: Load, *, clock: Clock) -> None:
        self._dataset = dataset
        self._load = load
        self._clock = clock
        self._doubts: list[_Doubt] = []
        self.counts = Inspection()

    async def run(self) -> None:
        """Inspects until cancelled."""
        while True:
            try:
                await self.step()
            except TierFailed as error:
                telemetry.log.debug("hits cannot be inspected", dataset=self._dataset.name, error=str(error))
            await asyncio.sleep(EVERY)

    async def step(self) -> None:
        """Compares what was sampled since the last step, and decides what has waited for long enough. Raises TierFailed."""
        self._decide()
        self._dataset.sampler.arm(self._dataset.l1_hits)
        if samples := self._dataset.sampler.taken():
            await self._compare(samples)

    async def _compare(self, samples: Sequence[Sample]) -> None:
        rows = await self._load(list({sample.id for sample in samples}))
        now = self._clock.now()
        for sample in samples:
            row = rows.get(sample.id)
            if isinstance(row, UnreadableRow):
                continue
            if sample.is_there if row is None else row.version > sample.version:
                if len(self._doubts) < MAX_DOUBTS:
                    self._doubts.append(_Doubt(now, sample, row))
            else:
                self.counts.fresh += 1

    def _decide(self) -> None:
        due = self._clock.now() - self._dataset.policy().staleness_bound
        waiting = []
        for doubt in self._doubts:
            if doubt.since > due:
                waiting.append(doubt)
            elif self._is_still_served(doubt):
                self.counts.violations += 1
                self._report(doubt)
            else:
                self.counts.stale += 1
        self._doubts = waiting

    def _is_still_served(self, doubt: _Doubt) -> bool:
        served = self._dataset.peek(doubt.sample.id)
        if served is None:
            return False
        if doubt.row is None:
            return served.value is not None and served.version == doubt.sample.version
        return served.version < doubt.row.version

    def _report(self, doubt: _Doubt) -> None:
        telemetry.log.error(
            "L1 served an entry that PostgreSQL changed more than staleness_bound ago",
            dataset=self._dataset.name,
            served_version=doubt.sample.version,
            version=doubt.row.version if doubt.row else None,
        )
