"""The L1 that needs no compiler: whose turn it is to go, and what it weighs."""

import gc
import sys
import tracemalloc

import pytest

from cache_sidecar.tiers.memory.clock import ENTRY_OVERHEAD, MAX_CHANCES, ClockL1
from cache_sidecar.tiers.ports import Record
from tests.unit.test_l1 import MIB, NOW, put, trusted_l1


def test_when_everything_was_read_an_eviction_still_ends_soon() -> None:
    count = MAX_CHANCES + 2
    l1 = trusted_l1(ClockL1, max_entries=count)
    for number in range(count):
        put(l1, str(number), 1)
        l1.get(str(number))
    put(l1, "new", 1)
    gone = [number for number in range(count) if l1.get(str(number)) is None]
    # The first ones were spared, and the next one was not: nobody looked at all of them.
    assert gone == [MAX_CHANCES]


def test_bytes_are_bounded() -> None:
    cost = ENTRY_OVERHEAD + sys.getsizeof("a") + sys.getsizeof(bytes(100))
    l1 = trusted_l1(ClockL1, max_bytes=cost * 2)
    for id in "abc":
        assert put(l1, id, 1, bytes(100))
    assert l1.stats().entries == 2
    assert l1.stats().bytes == cost * 2


# What it weighs


def weigh(count: int, size: int) -> tuple[int, int]:
    """Returns what the allocator and the L1 say of so many values, filled the way a load does."""
    gc.collect()
    tracemalloc.start()
    try:
        l1 = trusted_l1(ClockL1, max_bytes=1024 * MIB, max_entries=1_000_000)
        empty = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            id = f"product-{number:08}"
            record = Record(10**9 + number, NOW + number, bytes(size))
            l1.put(id, record, generation=l1.generation(id), expires_from=NOW + number / 7)
        return tracemalloc.get_traced_memory()[0] - empty, l1.stats().bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("count", "size"), [(21_800, 600), (22_000, 600), (3_000, 5_000)])
def test_the_bytes_it_counts_are_those_the_allocator_gave(count: int, size: int) -> None:
    # 21,845 entries fill a dict before it doubles: just below and above are the extremes.
    real, counted = weigh(count, size)
    assert abs(real - counted) <= 0.1 * real


def test_a_hundred_thousand_products_fit_in_160_mib() -> None:
    l1 = trusted_l1(ClockL1, max_bytes=160 * MIB, max_entries=1_000_000)
    value = bytes(620)
    for number in range(100_000):
        assert put(l1, f"product-{number:08}", number + 1, value)
    assert (l1.stats().entries, l1.stats().evictions) == (100_000, 0)
