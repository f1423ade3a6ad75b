"""How often each tier is asked, and what it holds. `README.md` derives the formulas; a test compares them with measured runs.

Reads of a product are a Poisson process: of rate `r` a second in one sidecar for the product of that popularity.
"""

from collections.abc import Iterable, Sequence
from math import exp
from typing import NamedTuple

# Bytes of an entry besides its id and value. In memory: `native/src/entries.rs`, `tiers/memory/clock.py`.
L1_OVERHEAD = {"native": 200, "aio": 430}
# In Redis: the key's prefix, our header, and what Valkey adds for a key with an expiry; measured by the test.
REDIS_OVERHEAD = 180
# A session has its last use and an entry in the list of its user as well.
SESSION_OVERHEAD = 250
_DAY = 86_400.0
# Each rank up to here has a group of its own; after that, groups grow by a fiftieth.
_EXACT = 1000


class Group(NamedTuple):
    """Products of about the same popularity."""

    share: float
    "Of all reads, that of one of these products."
    size: int
    "How many they are."


class Reads(NamedTuple):
    """What becomes of reads of products in one region, each a second."""

    reads: float
    l1_hit_ratio: float
    l2: float
    "Loads from Redis."
    store: float
    "Loads from PostgreSQL."
    l1_entries: float
    "Values in the memory of one sidecar after a day."
    l2_entries: float
    "Values in Redis."


def popularity(products: int, skew: float) -> Sequence[Group]:
    """Returns Zipf's law, the most popular products first."""
    groups: list[tuple[float, int]] = []
    rank = 1
    while rank <= products:
        size = 1 if rank <= _EXACT else min(rank // 50, products - rank + 1)
        groups.append(((rank + (size - 1) / 2) ** -skew, size))
        rank += size
    total = sum(weight * size for weight, size in groups)
    return [Group(weight / total, size) for weight, size in groups]


def read_products(
    groups: Sequence[Group], reads: float, *, pods: int, soft: float, hard: float, l2_ttl: float, capacity: float
) -> Reads:
    """Returns what becomes of `reads` a second in a region with so many sidecars, each with room for `capacity` values."""
    soft, hard = _fit(groups, reads / pods, soft, hard, capacity)
    misses = l2 = store = held = l2_held = 0.0
    for share, size in groups:
        r = share * reads / pods
        if not r:
            continue
        # A value is loaded, and again by the first read after `soft`: that takes soft + 1/r. The read waits for it, and counts
        # as a miss, only if none came between `soft` and `hard`.
        loads = r / (1 + r * soft)
        misses += size * pods * loads * exp(-r * (hard - soft))
        asked = pods * loads
        l2 += size * asked
        store += size * asked / (1 + asked * l2_ttl)
        # What has expired stays in memory until room is needed.
        held += size * (1 - exp(-r * _DAY))
        l2_held += size * asked * l2_ttl / (1 + asked * l2_ttl)
    return Reads(reads, 1 - misses / reads if reads else 0.0, l2, store, min(held, capacity), l2_held)


def _resident(r: float, soft: float, hard: float) -> float:
    """Returns the share of time in which a value in memory may be served: until its refresh, or for `hard` after its load."""
    cycle = soft + 1 / r
    return (soft + (1 - exp(-r * (hard - soft))) / r) / cycle


def _fit(groups: Iterable[Group], r: float, soft: float, hard: float, capacity: float) -> tuple[float, float]:
    """Returns the times after which values leave memory, shortened until no more than `capacity` can be served from it."""

    def servable(factor: float) -> float:
        return sum(size * _resident(share * r, soft * factor, hard * factor) for share, size in groups if share * r)

    if servable(1) <= capacity:
        return soft, hard
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if servable(middle) <= capacity else (low, middle)
    return soft * low, hard * low
