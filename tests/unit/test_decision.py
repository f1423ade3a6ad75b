"""What an entry's age leads to: every branch, at its edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.tiers.path import decision
from cache_sidecar.tiers.path.decision import Verdict
from cache_sidecar.tiers.ports import ANY, Entry, Expiry, Freshness, Partition, Record

NOW = 10_000.0
POLICY = DatasetPolicy(l1_soft_ttl=100, l1_hard_ttl=200, l2_ttl=1000, jitter=0.1, negative_ttl=10, stale_limit=5)
What = tuple[int, bytes | None]
VALUE, DELETED, GUESS = (7, b"value"), (7, None), (0, None)


def entry(what: What = VALUE, *, held: float = 0.0, read: float = 0.0, suspect: float | None = None) -> Entry:
    """An entry stored `held` seconds ago of content read `read` seconds ago, suspect for so many seconds."""
    partition = Partition()
    partition.heard = partition.trusted = suspect is None
    partition.suspect_since = NOW - (suspect or 0.0)
    version, value = what
    return Entry(Record(version, NOW - read, value), expires_from=NOW - held, partition=partition, cost=1)


def verdict(of: Entry, wanted: Freshness = ANY) -> Verdict:
    return decision.verdict_on(of, now=NOW, policy=POLICY, wanted=wanted)


@pytest.mark.parametrize("what", [VALUE, DELETED])
@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (-20, Verdict.SERVE),
        (0, Verdict.SERVE),
        (99.9, Verdict.SERVE),
        (100, Verdict.SERVE_AND_REFRESH),
        (199.9, Verdict.SERVE_AND_REFRESH),
        (200, Verdict.MISS),
    ],
)
def test_soft_and_hard_expiry(what: What, held: float, expected: Verdict) -> None:
    assert verdict(entry(what, held=held)) is expected


@pytest.mark.parametrize(("held", "expected"), [(0, Verdict.SERVE), (9.9, Verdict.SERVE), (10, Verdict.MISS)])
def test_there_is_none_is_remembered_for_a_short_time(held: float, expected: Verdict) -> None:
    assert verdict(entry(GUESS, held=held)) is expected


@pytest.mark.parametrize("held", [0, 150])
@pytest.mark.parametrize(("suspect", "expected"), [(0, Verdict.SERVE_STALE), (5, Verdict.SERVE_STALE), (5.1, Verdict.MISS)])
def test_a_suspect_partition_serves_stale_for_a_while(held: float, suspect: float, expected: Verdict) -> None:
    assert verdict(entry(held=held, suspect=suspect)) is expected


def test_a_suspect_partition_serves_nothing_past_its_time_and_no_guess() -> None:
    assert verdict(entry(held=200, suspect=1)) is Verdict.MISS
    assert verdict(entry(GUESS, suspect=0)) is Verdict.MISS


@pytest.mark.parametrize(("read", "expected"), [(3, Verdict.SERVE), (3.1, Verdict.MISS)])
@pytest.mark.parametrize("what", [VALUE, DELETED, GUESS])
def test_a_maximum_age_is_of_the_content(what: What, read: float, expected: Verdict) -> None:
    assert verdict(entry(what, read=read), Freshness(max_age=3)) is expected


def test_a_maximum_age_does_not_make_old_entries_fresh() -> None:
    assert verdict(entry(held=200), Freshness(max_age=1000)) is Verdict.MISS


def stale(of: Entry, wanted: Freshness = ANY) -> bool:
    return decision.serves_as_last_resort(of, now=NOW, policy=POLICY, wanted=wanted)


@pytest.mark.parametrize(("held", "expected"), [(0, True), (200, True), (204.9, True), (205, False)])
def test_without_the_store_an_entry_lasts_a_little_longer(held: float, expected: bool) -> None:
    assert stale(entry(held=held)) is expected


@pytest.mark.parametrize("what", [DELETED, GUESS])
def test_without_the_store_there_is_none_is_not_believed(what: What) -> None:
    assert not stale(entry(what))


@pytest.mark.parametrize(("suspect", "expected"), [(5, True), (5.1, False)])
def test_without_the_store_a_suspect_partition_serves_no_longer(suspect: float, expected: bool) -> None:
    assert stale(entry(suspect=suspect)) is expected


def test_without_the_store_what_the_caller_asked_for_still_counts() -> None:
    assert not stale(entry(), Freshness(bypass=True))
    assert stale(entry(read=3), Freshness(max_age=3))
    assert not stale(entry(read=3.1), Freshness(max_age=3))


def l2(what: What, age: float, wanted: Freshness = ANY) -> bool:
    version, value = what
    return decision.l2_serves(Record(version, NOW - age, value), now=NOW, policy=POLICY, wanted=wanted)


@pytest.mark.parametrize(
    ("what", "age", "expected"),
    [
        (VALUE, 0, True),
        (VALUE, 1099.9, True),
        (VALUE, 1100, False),
        (DELETED, 1099.9, True),
        (DELETED, 1100, False),
        (GUESS, 9.9, True),
        (GUESS, 10, False),
        (VALUE, -5, True),
    ],
)
def test_what_redis_holds_ends_by_age_even_when_redis_kept_it(what: What, age: float, expected: bool) -> None:
    assert l2(what, age) is expected


def test_what_redis_holds_must_be_as_fresh_as_asked() -> None:
    assert l2(VALUE, 3, Freshness(max_age=3))
    assert not l2(VALUE, 3.1, Freshness(max_age=3))


@given(unit=st.floats(0, 1), ttl=st.floats(0, 1e6), jitter=st.floats(0, 0.5))
def test_jitter_stays_within_its_fraction(unit: float, ttl: float, jitter: float) -> None:
    moved = decision.with_jitter(0.0, draw=unit, ttl=ttl, jitter=jitter)
    assert abs(moved) <= jitter * ttl * (1 + 1e-9)


def test_jitter_goes_either_way() -> None:
    assert decision.with_jitter(NOW, draw=0.0, ttl=100, jitter=0.1) == NOW - 10
    assert decision.with_jitter(NOW, draw=0.5, ttl=100, jitter=0.1) == NOW
    assert decision.with_jitter(NOW, draw=1.0, ttl=100, jitter=0.1) == NOW + 10


# Refreshing what Redis holds before it expires there


def is_due(read: float, *, load_seconds: float = 0.0, unit: float = 0.0, id: str = "a", what: What = VALUE) -> bool:
    record = Record(what[0], NOW - read, what[1])
    return decision.should_refresh(id, record, now=NOW, policy=POLICY, load_seconds=load_seconds, rng=lambda: unit)


def soft_ttl(id: str) -> int:
    return next(age for age in range(2000) if is_due(age, id=id))


def test_a_record_is_due_before_the_earliest_moment_it_may_expire_each_at_its_own() -> None:
    earliest = POLICY.l2_ttl * (1 - POLICY.jitter)
    times = [soft_ttl(f"id{number}") for number in range(200)]
    assert earliest * (1 - POLICY.jitter) <= min(times) < max(times) <= earliest
    assert len(set(times)) > 50


@pytest.mark.parametrize(("draw", "loads"), [(0.0, 0.0), (0.5, 0.69), (0.99, 4.6), (0.999999, 13.8)])
def test_a_reader_refreshes_the_earlier_the_longer_a_load_takes(draw: float, loads: float) -> None:
    due = soft_ttl("a")
    for load_seconds in (1.0, 5.0):
        assert is_due(due - load_seconds * loads, load_seconds=load_seconds, unit=draw)
        assert not is_due(due - load_seconds * (loads + 0.1) - 1, load_seconds=load_seconds, unit=draw)


def test_one_of_many_readers_refreshes_in_time_and_hardly_any_refreshes_long_before() -> None:
    draws = [number / 1000 for number in range(1000)]
    due = soft_ttl("a")
    # A load before the end, one reader in e is to refresh; ten loads before it, one in 22,000.
    assert sum(is_due(due - 20.0, load_seconds=20.0, unit=draw) for draw in draws) == pytest.approx(1000 / 2.718, rel=0.1)
    assert not any(is_due(due - 200.0, load_seconds=20.0, unit=draw) for draw in draws)


def test_a_guess_and_a_record_that_every_read_puts_off_are_never_due() -> None:
    assert is_due(5000)
    assert is_due(5000, what=DELETED)
    assert not is_due(5000, what=GUESS)
    sliding = Record(7, NOW - 5000, b"value", Expiry(NOW + 1))
    assert not decision.should_refresh("a", sliding, now=NOW, policy=POLICY, load_seconds=0, rng=lambda: 0.0)
