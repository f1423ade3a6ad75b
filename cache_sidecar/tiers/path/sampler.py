"""Samples the L1 hits that are compared with PostgreSQL. A hit that is not sampled costs one comparison of two numbers.

While somebody watches which ids are read most, more hits may be sampled: no more of them are compared for that.
"""

from collections.abc import Callable
from typing import NamedTuple

from cache_sidecar.tiers.path.hottest import HottestIds

# Samples that may wait to be compared; more are skipped.
MAX_SAMPLES = 200


class Sample(NamedTuple):
    """A hit."""

    id: str
    version: int
    "What was served."
    is_there: bool
    "Whether that was a value; otherwise it was that there is none."


class HitSampler:
    """Samples one in `every` hits, at random, so that it does not fall into step with a pattern of reads."""

    def __init__(self, every: Callable[[], int], rng: Callable[[], float]) -> None:
        """`every` returns one in how many hits is compared, 0 for none; `rng` draws a number from 0 to below 1."""
        self._every = every
        self._rng = rng
        self._samples: list[Sample] = []
        self._watch_every = 0
        self.hottest: HottestIds | None = None
        "The ids that are read most, while they are watched."
        self.due = 0
        "The number of the next hit to be sampled; 0 for none."

    def watch(self, every: int) -> None:
        """Counts the ids of one in `every` hits from now on; 0 ends that. Without effect on hits that are compared."""
        self._watch_every = every
        if not every:
            self.hottest = None
        elif self.hottest is None:
            self.hottest = HottestIds()

    def interval(self) -> int:
        """Returns one in how many hits is sampled, 0 for none."""
        return min((every for every in (self._every(), self._watch_every) if every), default=0)

    def take(self, sample: Sample | None) -> None:
        """Adds the hit that is due, and chooses the next; None for a hit marked stale, which promises nothing to compare."""
        if sample is not None:
            self.add(sample)
        self.arm(self.due)

    def add(self, sample: Sample) -> None:
        """Adds a hit that the native engine served and sampled."""
        if self.hottest is not None:
            self.hottest.count(sample.id)
        if len(self._samples) < MAX_SAMPLES and self._is_compared():
            self._samples.append(sample)

    def _is_compared(self) -> bool:
        every = self._every()
        return bool(every) and (self.interval() == every or self._rng() * every < self.interval())

    def arm(self, hits: int) -> None:
        """Chooses the next hit to be sampled, given the number of hits so far and the current policy."""
        every = self.interval()
        if not every:
            self.due = 0
        elif not hits < self.due < hits + 2 * every:
            self.due = hits + 1 + int(self._rng() * (2 * every - 1))

    def drain(self) -> list[Sample]:
        """Returns and forgets the samples since the last call."""
        samples, self._samples = self._samples, []
        return samples
