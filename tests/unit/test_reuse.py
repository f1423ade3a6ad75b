"""The simulation of other sizes and times, on both implementations, against exact ones."""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import pytest

from cache_sidecar.tiers.memory.reuse import (
    L1_ALTERNATIVES,
    MAX_KEYS,
    PRESENT,
    SIZES,
    TTLS,
    Configuration,
    Reuse,
    SampledReuse,
    spatial_hash,
)
from tests.support.engine_params import needs_native

START = 1_000_000.0
LONG = Configuration(entries=1000, soft=1e9, hard=1e9, l2_ttl=1e9)
Make = Callable[..., Reuse]


def native(*, max_keys: int = MAX_KEYS) -> Reuse:
    """Returns the one in Rust, of a memory of its own."""
    from cache_sidecar._native import Memory  # noqa: PLC0415  # where it is installed
    from cache_sidecar.tiers.memory.native import NativeReuse  # noqa: PLC0415

    return NativeReuse(Memory(1 << 20, 1000, 64), max_keys=max_keys)


@pytest.fixture(params=[pytest.param(native, marks=needs_native, id="native"), pytest.param(SampledReuse, id="python")])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


def made(make: Make, configuration: Configuration, *, max_keys: int = MAX_KEYS) -> Reuse:
    reuse = make(max_keys=max_keys)
    reuse.configure(configuration)
    return reuse


def zipf(ids: int, reads: int, *, skew: float = 0.9) -> list[str]:
    draw = random.Random(7)
    sums = list(accumulate(rank**-skew for rank in range(1, ids + 1)))
    return [f"SKU-{number:06}" for number in draw.choices(range(ids), cum_weights=sums, k=reads)]


def lru_hits(reads: Iterable[str], entries: float) -> int:
    """Returns the hits of an LRU cache."""
    held: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for id in reads:
        if id in held:
            held.move_to_end(id)
            hits += 1
        else:
            held[id] = None
            if len(held) > entries:
                held.popitem(last=False)
    return hits


def ratios(reuse: Reuse) -> list[float]:
    """Returns the hit ratio for each of `SIZES`."""
    figures = reuse.figures()
    return [hits / figures.reads for hits in figures.hits[: len(SIZES)]]


def shown_differences(curve: Sequence[float]) -> list[float]:
    """Returns what advice is made of: the differences from today's size, at sizes from 1/4 to 4 times it."""
    return [hits - curve[PRESENT] for size, hits in zip(SIZES, curve, strict=True) if 0.25 <= size <= 4]


# The curve


@pytest.mark.parametrize("skew", [0.7, 0.9, 1.1])
def test_the_curve_of_a_sample_is_that_of_lru_within_three_points(make: Make, skew: float) -> None:
    reads = zipf(50_000, 200_000, skew=skew)
    reuse = made(make, LONG, max_keys=4096)
    for number, id in enumerate(reads):
        reuse.read(id, START + number)
    assert reuse.figures().keys == 4096
    assert reuse.figures().rate < 0.2
    exact = [lru_hits(reads, size * LONG.entries) / len(reads) for size in SIZES]
    assert shown_differences(ratios(reuse)) == pytest.approx(shown_differences(exact), abs=0.03)


def test_the_curve_of_all_ids_is_exact(make: Make) -> None:
    reads = zipf(2000, 30_000)
    reuse = made(make, LONG._replace(entries=160))
    for id in reads:
        reuse.read(id, START)
    assert reuse.figures().reads == len(reads)
    assert ratios(reuse) == [lru_hits(reads, 160 * size) / len(reads) for size in SIZES]


def test_a_scan_hits_nothing_that_is_smaller_than_it(make: Make) -> None:
    ids = [f"product-{number}" for number in range(20_000)]
    reuse = made(make, LONG._replace(entries=15_000), max_keys=1000)
    for id in ids * 3:
        reuse.read(id, START)
    found = dict(zip(SIZES, ratios(reuse), strict=True))
    assert all(found[size] < 0.01 for size in SIZES if size <= 1)
    assert all(found[size] == pytest.approx(2 / 3, abs=0.02) for size in SIZES if size >= 2)


def test_a_sample_is_a_fair_share_of_ids_that_count_up() -> None:
    for form in ("SKU-{:06}", "{}", "product-{:08}-v1", "user{:x}"):
        hashes = [spatial_hash(form.format(number)) for number in range(20_000)]
        for parts in (4, 64):
            chosen = sum(hash < (1 << 32) // parts for hash in hashes)
            assert chosen == pytest.approx(20_000 / parts, rel=0.25), form


def test_half_of_a_sample_goes_on_with_the_same_estimates(make: Make) -> None:
    reads = zipf(20_000, 100_000)
    reuse = made(make, LONG)
    for number, id in enumerate(reads):
        reuse.read(id, START)
        if number == len(reads) // 4:
            before = reuse.figures().rate
            reuse.halve()
            assert reuse.figures().rate == pytest.approx(before / 2)
    exact = [lru_hits(reads, size * LONG.entries) / len(reads) for size in SIZES]
    assert shown_differences(ratios(reuse)) == pytest.approx(shown_differences(exact), abs=0.03)


# Times to live


def hits(reuse: Reuse, ttl: float) -> float:
    return reuse.figures().hits[L1_ALTERNATIVES.index((1.0, ttl))]


def test_an_entry_is_hit_until_it_is_too_old_and_refreshed_before(make: Make) -> None:
    reuse = made(make, Configuration(entries=10, soft=80, hard=100, l2_ttl=1e9))
    # Ages 70, 90 with a refresh, and 105 since that.
    for moment in (0, 70, 90, 195):
        reuse.read("a", START + moment)
    figures = reuse.figures()
    assert (figures.hits[PRESENT], figures.refreshes[PRESENT]) == (2, 1)
    assert (hits(reuse, 0.25), hits(reuse, 0.5), hits(reuse, 2), hits(reuse, 4)) == (1, 1, 3, 3)
    assert figures.refreshes[L1_ALTERNATIVES.index((1.0, 0.25))] == 1


def test_a_change_is_a_miss_and_the_same_version_is_one_change(make: Make) -> None:
    reuse = made(make, LONG)
    reuse.read("a", START)
    reuse.change("a", 5, START + 1)
    reuse.read("a", START + 2)
    reuse.change("a", 5, START + 3)  # announced by Redis, too
    reuse.read("a", START + 4)
    assert reuse.figures().hits[PRESENT] == 1
    reuse.change("a", 0, START + 5)  # dropped by an operator
    reuse.read("a", START + 6)
    assert reuse.figures().hits[PRESENT] == 1
    reuse.change("unknown", 5, START)


def test_what_would_be_out_of_date_without_invalidations_is_bounded_by_the_times(make: Make) -> None:
    reuse = made(make, Configuration(entries=10, soft=100, hard=100, l2_ttl=1e9))
    reuse.read("a", START)
    reuse.change("a", 5, START + 10)
    for moment in (20, 40, 60, 120, 140, 450):
        reuse.read("a", START + moment)
    # Loaded again, and so up to date: at 40 (TTL 25), 60 (TTL 50), 120 (TTL 100), 450 (TTL 200 and 400).
    assert list(reuse.figures().outdated) == [1, 2, 3, 5, 5]


def test_redis_is_asked_for_what_memory_misses_and_loads_what_is_too_old(make: Make) -> None:
    reuse = made(make, Configuration(entries=10, soft=10, hard=10, l2_ttl=100))
    # Memory answers at 5. Redis answers at 60 and 90, and is 120 old at 120.
    for moment in (0, 5, 60, 90, 120):
        reuse.read("a", START + moment)
    assert list(reuse.figures().loads) == [3, 2, 1, 0, 0]


def test_a_record_that_slides_lives_on_with_each_use(make: Make) -> None:
    reuse = made(make, Configuration(l2_ttl=100, slides=True))
    for moment in (0, 60, 120, 260):
        reuse.read("a", START + moment)
    assert list(reuse.figures().loads) == [3, 3, 1, 0, 0]
    assert set(reuse.figures().hits) == {0}


def exact_ttl_hits(reads: Sequence[tuple[float, str]], ttl: float) -> int:
    loaded: dict[str, float] = {}
    hits = 0
    for now, id in reads:
        if now - loaded.get(id, -1e9) < ttl:
            hits += 1
        else:
            loaded[id] = now
    return hits


def test_what_longer_times_hit_more_is_exact_within_two_points(make: Make) -> None:
    reads = [(START + number * 0.01, id) for number, id in enumerate(zipf(50_000, 200_000))]
    reuse = made(make, Configuration(entries=1e9, soft=300, hard=300, l2_ttl=1e9))
    for now, id in reads:
        reuse.read(id, now)
    exact = [exact_ttl_hits(reads, 300 * ttl) / len(reads) for ttl in TTLS]
    found = [hits(reuse, ttl) / reuse.figures().reads for ttl in TTLS]
    present = TTLS.index(1)
    assert [one - found[present] for one in found] == pytest.approx([one - exact[present] for one in exact], abs=0.02)
