"""Compares what L1 served with PostgreSQL, behind the replies, and counts what was older than it may be.

PostgreSQL does not say when a row was committed. So a hit that was older than PostgreSQL's row is checked once more when the
staleness bound has passed since: if a read would still be answered with less than PostgreSQL had then, the bound is violated,
whenever the change was committed. A hit that was newer than the row, which was read later, is an alarm, and dropped everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.sampler import Sample
from cache_sidecar.tiers.ports import Load, Row, UnreadableRow

# Seconds between two steps.
EVERY = 1.0
# Hits that may wait for the bound to pass; more are skipped.
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
    newer: int = 0
    "Newer: forged, or lost by PostgreSQL."


class _Doubt(NamedTuple):
    """A hit that was older than what PostgreSQL held."""

    since: float
    "When PostgreSQL was asked, in seconds since the epoch."
    sample: Sample
    row: Row | None
    "What PostgreSQL held; None if it had no such row."


class Inspector:
    """Inspects the hits of one dataset."""

    def __init__(self, dataset: Dataset, load: Load, *, clock: Clock, values_without_rows: bool = False) -> None:
        """With `values_without_rows`, a value of version 0 was made for an id that has no row: there is nothing to compare."""
        self._values_without_rows = values_without_rows
        self._dataset = dataset
        self._load = load
        self._clock = clock
        self._doubts: list[_Doubt] = []
        self.counts = Inspection()

    async def step(self) -> None:
        """Decides the doubts that have waited for long enough, and compares the hits sampled since. Raises TierFailed."""
        self._decide()
        self._dataset.sampler.arm(self._dataset.l1_hits)
        if samples := self._dataset.sampler.drain():
            await self._compare(samples)

    async def _compare(self, samples: Sequence[Sample]) -> None:
        rows = await self._load(list({sample.id for sample in samples}))
        now = self._clock.now()
        newer: dict[str, int] = {}
        for sample in samples:
            row = rows.get(sample.id)
            if isinstance(row, UnreadableRow):
                continue
            if row is not None and row.version < sample.version:
                self.counts.newer += 1
                newer[sample.id] = max(sample.version, newer.get(sample.id, 0))
            elif self._differs(sample) if row is None else row.version > sample.version:
                if len(self._doubts) < MAX_DOUBTS:
                    self._doubts.append(_Doubt(now, sample, row))
            else:
                self.counts.fresh += 1
        if newer:
            await self._dataset.loader.retract(newer, rows)

    def _differs(self, sample: Sample) -> bool:
        """Whether a hit is not what an id without a row is answered with."""
        return sample.is_there and not (self._values_without_rows and sample.version == 0)

    def _decide(self) -> None:
        bound_passed_at = self._clock.now() - self._dataset.policy().staleness_bound
        waiting = []
        for doubt in self._doubts:
            if doubt.since > bound_passed_at:
                waiting.append(doubt)
            elif self._is_still_served(doubt):
                self.counts.violations += 1
                telemetry.log.error(
                    "L1 served an entry that PostgreSQL changed more than staleness_bound ago",
                    dataset=self._dataset.name,
                    served_version=doubt.sample.version,
                    version=doubt.row.version if doubt.row else None,
                )
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
