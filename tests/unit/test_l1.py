"""L1: what it refuses and what it forgets, on both implementations."""

from itertools import islice

import pytest

from cache_sidecar.tiers.memory.clock import MAX_TOMBSTONES, ClockL1
from cache_sidecar.tiers.ports import L1, PARTITIONS, Record, partition_of
from tests.support.engine_params import L1S, MakeL1

MIB = 1024 * 1024
NOW = 1000.0


make: MakeL1 = ClockL1


@pytest.fixture(autouse=True, params=L1S)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here is made on each."""
    monkeypatch.setattr(f"{__name__}.make", request.param)


def trusted_l1(make_l1: MakeL1 | None = None, *, max_bytes: int = MIB, max_entries: int = 1000) -> L1:
    l1 = (make_l1 or make)(max_bytes=max_bytes, max_entries=max_entries)
    for partition in range(PARTITIONS):
        l1.set_trusted(partition, True, now=NOW)
    return l1


def put(l1: L1, id: str, version: int, value: bytes | None = b"value", *, generation: int | None = None) -> bool:
    at = l1.generation(id) if generation is None else generation
    return l1.put(id, Record(version, NOW, value), generation=at, expires_from=NOW)


def version_of(l1: L1, id: str) -> int | None:
    entry = l1.get(id)
    return None if entry is None else entry.record.version


def ids_of_one_partition(count: int) -> list[str]:
    wanted = partition_of("first")
    numbered = (f"id-{number}" for number in range(1_000_000))
    return list(islice((id for id in numbered if partition_of(id) == wanted), count))


# What is stored


def test_newer_and_same_versions_are_stored_and_older_ones_refused() -> None:
    l1 = trusted_l1()
    assert put(l1, "a", 5)
    assert put(l1, "a", 5, b"read later")
    assert not put(l1, "a", 4)
    assert put(l1, "a", 6, b"newest")
    entry = l1.get("a")
    assert entry is not None
    assert entry.record == Record(6, NOW, b"newest")
    assert (l1.stats().fills, l1.stats().refused) == (3, 1)


def test_an_id_that_was_never_stored_is_a_miss() -> None:
    assert trusted_l1().get("a") is None


def test_nothing_is_stored_before_the_partition_is_trusted() -> None:
    l1 = make(max_bytes=MIB, max_entries=10)
    assert not put(l1, "a", 1)
    l1.set_trusted(partition_of("a"), True, now=NOW)
    assert put(l1, "a", 1)


def test_a_fill_that_began_before_trust_was_lost_is_refused() -> None:
    l1 = trusted_l1()
    before = l1.generation("a")
    l1.set_trusted(partition_of("a"), False, now=NOW)
    l1.set_trusted(partition_of("a"), True, now=NOW)
    assert not put(l1, "a", 1, generation=before)


def test_losing_trust_keeps_the_entries_and_remembers_since_when() -> None:
    l1 = trusted_l1()
    put(l1, "a", 1)
    l1.set_trusted(partition_of("a"), False, now=NOW + 7)
    l1.set_trusted(partition_of("a"), False, now=NOW + 9)
    entry = l1.get("a")
    assert entry is not None
    assert not entry.partition.trusted
    assert entry.partition.suspect_since == NOW + 7


def test_trust_is_lost_by_one_partition_alone() -> None:
    l1 = trusted_l1()
    here, there = "a", next(id for id in "bcdef" if partition_of(id) != partition_of("a"))
    l1.set_trusted(partition_of(here), False, now=NOW)
    assert not put(l1, here, 1)
    assert put(l1, there, 1)


# What is dropped


def test_a_drop_removes_what_is_older_and_refuses_it_from_then_on() -> None:
    l1 = trusted_l1()
    put(l1, "a", 1)
    l1.drop("a", 2)
    assert l1.get("a") is None
    assert not put(l1, "a", 1)
    assert put(l1, "a", 2)


def test_a_drop_keeps_what_is_as_new() -> None:
    l1 = trusted_l1()
    put(l1, "a", 2)
    l1.drop("a", 2)
    l1.drop("a", 1)
    assert version_of(l1, "a") == 2


def test_a_drop_of_what_is_as_new_still_refuses_older_fills_after_its_eviction() -> None:
    l1 = trusted_l1(max_entries=1)
    put(l1, "a", 2)
    l1.drop("a", 2)
    put(l1, "b", 1)
    assert l1.get("a") is None
    assert not put(l1, "a", 1)


def test_the_highest_tombstone_counts() -> None:
    l1 = trusted_l1()
    l1.drop("a", 5)
    l1.drop("a", 3)
    assert not put(l1, "a", 4)


def test_a_drop_without_a_version_drops_everything_and_refuses_fills_under_way() -> None:
    l1 = trusted_l1()
    put(l1, "a", 9)
    before = l1.generation("a")
    l1.drop("a", 0)
    assert l1.get("a") is None
    assert not put(l1, "a", 9, generation=before)
    assert put(l1, "a", 9)


def test_what_postgresql_does_not_have_is_forgotten() -> None:
    l1 = trusted_l1()
    put(l1, "a", 9, b"forged")
    l1.drop("b", 9)
    assert (l1.newest("a"), l1.newest("b"), l1.newest("c")) == (9, 9, 0)
    for id in "ab":
        l1.retract(id, 3, newest=9)
        assert l1.get(id) is None
        assert put(l1, id, 3)
        assert not put(l1, id, 2)


def test_what_was_announced_after_postgresql_was_read_stays() -> None:
    l1 = trusted_l1()
    put(l1, "a", 5)
    l1.drop("b", 5)
    known = l1.newest("a")
    put(l1, "a", 6, b"newer")
    l1.drop("b", 6)
    for id in "ab":
        l1.retract(id, 4, newest=known)
        assert l1.newest(id) == 6
        assert not put(l1, id, 5)


def test_what_postgresql_has_is_kept() -> None:
    l1 = trusted_l1()
    put(l1, "a", 5)
    l1.drop("b", 5)
    for id in "ab":
        l1.retract(id, 5, newest=5)
        assert l1.newest(id) == 5


def test_an_entry_of_a_dropped_partition_says_nothing() -> None:
    l1 = trusted_l1()
    put(l1, "a", 5)
    l1.drop_partition(partition_of("a"))
    assert l1.newest("a") == 0


def test_too_many_tombstones_are_forgotten_at_the_price_of_the_fills_under_way() -> None:
    l1 = trusted_l1()
    ids = ids_of_one_partition(MAX_TOMBSTONES + 1)
    before = l1.generation(ids[0])
    for id in ids[:-1]:
        l1.drop(id, 5)
    assert l1.generation(ids[0]) == before
    l1.drop(ids[-1], 5)
    # The tombstone of the first is gone, so the fill that it refused must be refused by its generation.
    assert not put(l1, ids[0], 4, generation=before)
    assert not put(l1, ids[-1], 4)
    assert put(l1, ids[0], 4)


def test_a_dropped_partition_is_empty_and_refuses_the_fills_under_way() -> None:
    l1 = trusted_l1()
    put(l1, "a", 1)
    other = next(id for id in "bcdef" if partition_of(id) != partition_of("a"))
    put(l1, other, 1)
    before = l1.generation("a")
    l1.drop_partition(partition_of("a"))
    assert l1.get("a") is None
    assert version_of(l1, other) == 1
    assert not put(l1, "a", 1, generation=before)
    assert put(l1, "a", 1)


def test_a_dropped_partition_forgets_its_tombstones() -> None:
    l1 = trusted_l1()
    l1.drop("a", 9)
    l1.drop_partition(partition_of("a"))
    assert put(l1, "a", 1)


def test_an_entry_of_a_dropped_partition_does_not_come_back() -> None:
    l1 = trusted_l1()
    put(l1, "a", 1)
    for _ in range(3):
        l1.drop_partition(partition_of("a"))
        assert l1.get("a") is None


# There is none


def test_there_is_none_is_held_like_a_value_until_something_is_inserted() -> None:
    l1 = trusted_l1()
    assert put(l1, "a", 0, None)
    entry = l1.get("a")
    assert entry is not None
    assert entry.record.value is None
    l1.drop("a", 3)
    assert l1.get("a") is None
    assert not put(l1, "a", 0, None)


def test_there_is_none_against_a_held_value_leaves_neither() -> None:
    l1 = trusted_l1()
    put(l1, "a", 4)
    assert not put(l1, "a", 0, None)
    assert l1.get("a") is None


def test_an_older_value_does_not_replace_a_deletion() -> None:
    l1 = trusted_l1()
    put(l1, "a", 4, None)
    assert not put(l1, "a", 3)
    assert put(l1, "a", 5)


# Bounds


@pytest.mark.parametrize(("max_bytes", "max_entries"), [(0, 1), (1, 0), (-1, 5)])
def test_bounds_are_positive(max_bytes: int, max_entries: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(max_bytes=max_bytes, max_entries=max_entries)
    with pytest.raises(ValueError, match="at least 1"):
        trusted_l1().resize(max_bytes=max_bytes, max_entries=max_entries)


def test_the_least_recently_used_goes_first() -> None:
    l1 = trusted_l1(max_entries=3)
    for id in "abc":
        put(l1, id, 1)
    l1.get("a")
    put(l1, "b", 2)
    put(l1, "d", 1)
    assert [id for id in "abcd" if l1.get(id)] == ["a", "b", "d"]
    assert (l1.stats().entries, l1.stats().evictions) == (3, 1)


def test_a_value_larger_than_everything_is_refused_and_evicts_nothing() -> None:
    l1 = trusted_l1(max_bytes=10_000)
    put(l1, "a", 1)
    assert not put(l1, "b", 1, bytes(10_000))
    assert version_of(l1, "a") == 1


def test_a_value_that_outgrows_everything_does_not_leave_its_older_version() -> None:
    l1 = trusted_l1(max_bytes=10_000)
    put(l1, "a", 1)
    assert not put(l1, "a", 2, bytes(10_000))
    assert version_of(l1, "a") is None


def test_a_drop_gives_its_bytes_back() -> None:
    l1 = trusted_l1()
    put(l1, "a", 1)
    l1.drop("a", 2)
    assert (l1.stats().entries, l1.stats().bytes) == (0, 0)


def test_an_entry_of_a_dropped_partition_gives_its_bytes_back_when_it_is_looked_at() -> None:
    l1 = trusted_l1()
    put(l1, "a", 1)
    l1.drop_partition(partition_of("a"))
    assert l1.get("a") is None
    assert (l1.stats().entries, l1.stats().bytes) == (0, 0)


def test_resizing_keeps_the_most_recently_used() -> None:
    l1 = trusted_l1()
    for id in "abcd":
        put(l1, id, 1)
    l1.get("a")
    l1.resize(max_bytes=MIB, max_entries=2)
    assert [id for id in "abcd" if l1.get(id)] == ["a", "d"]
    put(l1, "e", 1)
    assert l1.stats().entries == 2


def test_resizing_keeps_the_order_of_use() -> None:
    l1 = trusted_l1()
    for id in "abc":
        put(l1, id, 1)
    l1.get("a")
    l1.resize(max_bytes=2 * MIB, max_entries=3)
    put(l1, "d", 1)
    assert [id for id in "abcd" if l1.get(id)] == ["a", "c", "d"]


def test_resizing_to_fewer_bytes_evicts_and_drops_what_never_fits() -> None:
    l1 = trusted_l1()
    put(l1, "large", 1, bytes(5000))
    for id in "ab":
        put(l1, id, 1, bytes(1000))
    l1.resize(max_bytes=4000, max_entries=10)
    assert [id for id in ("large", "a", "b") if l1.get(id)] == ["a", "b"]
    assert l1.stats().bytes <= 4000
