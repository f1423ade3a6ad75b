"""What a dataset counts, per tier."""

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


class TierStats(NamedTuple):
    """What `GetStats` tells of one tier."""

    counters: TierCounters
    entries: int
    bytes: int
    evictions: int
    loads: int
    coalesced: int
    unreadable: int
