"""Which hits are compared with PostgreSQL."""

import random
from itertools import pairwise

import pytest

from cache_sidecar.tiers.path.hottest import COUNTED, HALVED_AT, HottestIds
from cache_sidecar.tiers.path.sampler import MAX_SAMPLES, HitSampler, Sample


def taken(every: int, hits: int, *, unit: float | None = None) -> list[int]:
    """Returns the numbers of the hits that are taken."""
    chosen = random.Random(7)  # no secret
    sampler = HitSampler(lambda: every, chosen.random if unit is None else lambda: unit)
    sampler.arm(0)
    numbers: list[int] = []
    for number in range(1, hits + 1):
        if number == sampler.due:
            sampler.take(Sample("a", number, is_there=True))
            numbers += [sample.version for sample in sampler.drain()]
    return numbers


@pytest.mark.parametrize("every", [1, 2, 10, 100])
def test_one_of_so_many_hits_is_taken_in_the_long_run(every: int) -> None:
    assert len(taken(every, 1000 * every)) == pytest.approx(1000, rel=0.1)


def test_every_hit_can_be_taken() -> None:
    assert taken(1, 5) == [1, 2, 3, 4, 5]


def test_they_do_not_keep_time() -> None:
    numbers = taken(10, 1000)
    assert len({later - earlier for earlier, later in pairwise(numbers)}) > 5


def test_none_is_taken_for_0() -> None:
    assert taken(0, 100) == []


def test_a_policy_that_changes_counts_from_the_next_look_on() -> None:
    every = 1000
    sampler = HitSampler(lambda: every, lambda: 0.9999)
    sampler.arm(5)
    assert sampler.due == 5 + 1999
    every = 10
    sampler.arm(6)
    assert 6 < sampler.due < 6 + 20
    every = 0
    sampler.arm(7)
    assert sampler.due == 0


def test_a_look_does_not_put_off_what_is_due() -> None:
    sampler = HitSampler(lambda: 10, lambda: 0.5)
    sampler.arm(0)
    due = sampler.due
    sampler.arm(due - 1)
    assert sampler.due == due


def test_what_was_marked_stale_is_not_compared() -> None:
    sampler = HitSampler(lambda: 1, lambda: 0.0)
    sampler.arm(0)
    sampler.take(None)
    assert sampler.drain() == []
    assert sampler.due == 2


def test_there_is_a_bound() -> None:
    sampler = HitSampler(lambda: 1, lambda: 0.0)
    sampler.arm(0)
    for number in range(MAX_SAMPLES + 5):
        sampler.take(Sample("a", number, is_there=True))
    assert len(sampler.drain()) == MAX_SAMPLES
    assert sampler.drain() == []


def test_more_hits_are_sampled_while_somebody_watches_but_no_more_are_compared() -> None:
    sampler = HitSampler(lambda: 100, random.Random(7).random)
    assert sampler.interval() == 100
    sampler.watch(2)
    assert sampler.interval() == 2
    compared = 0
    for number in range(10_000):
        sampler.add(Sample("a", number, is_there=True))
        compared += len(sampler.drain())
    assert sampler.hottest is not None
    assert sampler.hottest.total == 10_000
    assert compared == pytest.approx(200, rel=0.25), "one in 50 of those that are one in 2"
    sampler.watch(0)
    assert sampler.hottest is None
    assert sampler.interval() == 100


def test_none_is_compared_for_0_whoever_watches() -> None:
    sampler = HitSampler(lambda: 0, random.Random(7).random)
    sampler.watch(1)
    sampler.arm(0)
    assert sampler.due == 1
    sampler.take(Sample("a", 1, is_there=True))
    assert sampler.drain() == []
    assert sampler.hottest is not None
    assert [one.id for one in sampler.hottest.top(3)] == ["a"]


def test_what_is_hot_is_found_among_more_ids_than_are_counted() -> None:
    hottest = HottestIds()
    for number in range(10 * COUNTED):
        hottest.count(f"cold-{number}")
        if number % 10 == 0:
            hottest.count("hot")
        if number % 20 == 0:
            hottest.count("warm")
    first, second = hottest.top(2)
    assert (first.id, second.id) == ("hot", "warm")
    assert first.samples - first.error <= COUNTED <= first.samples, "too many by at most the error"


def test_what_was_hot_fades() -> None:
    hottest = HottestIds()
    for _ in range(HALVED_AT // 2):
        hottest.count("before")
    for _ in range(HALVED_AT):
        hottest.count("now")
    assert [one.id for one in hottest.top(2)] == ["now", "before"]
    assert hottest.total < HALVED_AT


def test_an_id_that_was_forgotten_may_have_been_read_as_often_as_the_least_one() -> None:
    hottest = HottestIds()
    for number in range(2 * COUNTED):
        hottest.count(f"id-{number % COUNTED}")
    hottest.count("late")
    (late,) = [one for one in hottest.top(COUNTED) if one.id == "late"]
    assert (late.samples, late.error) == (3, 2)
