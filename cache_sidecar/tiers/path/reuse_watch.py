"""Keeps the simulation of a dataset's alternatives up to date with what is configured, and bounds what it costs."""

from collections.abc import Callable
from typing import NamedTuple

from cache_sidecar.tiers.memory.reuse import Configuration
from cache_sidecar.tiers.path.dataset import Dataset

# Seconds between two looks.
EVERY = 1.0


class Room(NamedTuple):
    """The bounds of an L1."""

    bytes: int
    entries: int


class ReuseWatch:
    """Watches one dataset."""

    def __init__(self, dataset: Dataset, room: Callable[[], Room] | None) -> None:
        """`room` returns what its L1 may have now; None without one."""
        self._dataset = dataset
        self._room = room
        self._sampled = 0
        self._configure()

    def look(self) -> None:
        """To be called every second."""
        self._configure()
        reuse = self._dataset.reuse
        sampled = reuse.figures().sampled
        if sampled - self._sampled > reuse.max_reads * EVERY:
            reuse.halve()
        self._sampled = sampled

    def _configure(self) -> None:
        policy = self._dataset.policy()
        self._dataset.reuse.configure(
            Configuration(self._entries(), policy.l1_soft_ttl, policy.l1_hard_ttl, policy.l2_ttl, self._dataset.expiry.slides)
        )

    def _entries(self) -> float:
        """Returns for how many entries L1 has room, if they are as large as those that it holds."""
        if self._room is None or not self._dataset.policy().l1_enabled:
            return 0.0
        room, held = self._room(), self._dataset.l1_stats()
        return min(float(room.entries), room.bytes * held.entries / held.bytes if held.bytes else float(room.entries))
