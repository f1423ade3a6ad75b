"""Chooses the hits in L1 that are compared with PostgreSQL. A hit that is not chosen costs one comparison of two numbers."""

from collections.abc import Callable
from typing import NamedTuple

# Hits that may wait to be compared; more are left out.
MAX_SAMPLES = 200


class Sample(NamedTuple):
    """A hit."""

    id: str
    version: int
    "Of what was served."
    is_there: bool
    "Whether that was a value, and not that there is none."


class HitSampler:
    """Takes one of so many hits, at random, so that it does not keep time with what is being read."""

    def __init__(self, every: Callable[[], int], unit: Callable[[], float]) -> None:
        """`every` says one of how many, or 0 for none; `unit` returns a random number from 0 to 1."""
        self._every = every
        self._unit = unit
        self._samples: list[Sample] = []
        self.due = 0
        "The number of the next hit to be taken; 0 for none."

    def take(self, sample: Sample | None) -> None:
        """Takes the hit that is due; None for one that was marked stale: there is nothing to compare."""
        if sample is not None and len(self._samples) < MAX_SAMPLES:
            self._samples.append(sample)
        self.arm(self.due)

    def add(self, sample: Sample) -> None:
        """Takes a hit that the native engine served, and chose."""
        if len(self._samples) < MAX_SAMPLES:
            self._samples.append(sample)

    def arm(self, hits: int) -> None:
        """Sees to it that, after so many hits, the next one is taken when the policy of now says."""
        every = self._every()
        if not every:
            self.due = 0
        elif not hits < self.due < hits + 2 * every:
            self.due = hits + 1 + int(self._unit() * (2 * every - 1))

    def taken(self) -> list[Sample]:
        """Returns what was taken since it was asked last."""
        samples, self._samples = self._samples, []
        return samples
