"""The counters of a dataset, per tier."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class TierCounters:
    """Counts of one tier since the start."""

    hits: int = 0
    misses: int = 0
    fills: int = 0
    errors: int = 0
    unreadable: int = 0
    newer: int = 0
    refreshes: int = 0


class TierStats(NamedTuple):
    """What `GetStats` reports of one tier."""

    counters: TierCounters
    entries: int
    bytes: int
    evictions: int
    refused: int
    "Fills that L1 refused."
    loads: int
    batches: int
    "Loads went out in so many."
    coalesced: int
    unreadable: int
    unsigned: int
