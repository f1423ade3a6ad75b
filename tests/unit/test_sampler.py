"""Which hits are compared with PostgreSQL."""

import random
from itertools import pairwise

import pytest

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
            numbers += [sample.version for sample in sampler.taken()]
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
    assert sampler.taken() == []
    assert sampler.due == 2


def test_there_is_a_bound() -> None:
    sampler = HitSampler(lambda: 1, lambda: 0.0)
    sampler.arm(0)
    for number in range(MAX_SAMPLES + 5):
        sampler.take(Sample("a", number, is_there=True))
    assert len(sampler.taken()) == MAX_SAMPLES
    assert sampler.taken() == []
