"""A caller's deadline: each tier gets a part of it, what there is comes in time, and nobody else pays for one's hurry."""

import asyncio

import pytest

from cache_sidecar.core.errors import DeadlineExceeded
from cache_sidecar.tiers.ports import Freshness, Source
from tests.support.dataset_case import Case, reading

# Seconds: no time for anything; and enough for what is in memory, on any machine.
HURRY, PATIENCE = 0.1, 3.0


def within(seconds: float) -> Freshness:
    return Freshness(until=asyncio.get_running_loop().time() + seconds)


async def test_what_redis_does_not_say_in_half_of_the_time_is_read_from_the_store(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.l2.before_read.close()
    answer = await case.dataset.get("a", within(PATIENCE))
    assert (answer.value, answer.source) == (b"sofa", Source.STORE)


async def test_who_can_wait_is_answered_by_the_same_question_to_redis(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.l2.before_read.close()
    patient = reading(case)
    await case.l2.before_read.reached()
    with pytest.raises(DeadlineExceeded):
        case.rows.before.close()
        await case.dataset.get("a", within(HURRY))
    case.rows.before.open()
    case.l2.before_read.open()
    assert (await patient).value == b"sofa"
    assert case.l2.reads == 1


async def test_a_store_that_takes_too_long_is_told_before_the_caller_leaves(case: Case) -> None:
    case.rows.before.close()
    with pytest.raises(DeadlineExceeded):
        await case.dataset.get("a", within(HURRY))
    assert case.dataset.stats()[Source.STORE].counters.errors == 1, "whoever looks for why replies are stale sees it"


async def test_the_load_goes_on_for_those_who_wait(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.rows.before.close()
    patient = reading(case)
    await case.rows.before.reached()
    with pytest.raises(DeadlineExceeded):
        await case.dataset.get("a", within(HURRY))
    case.rows.before.open()
    assert (await patient).value == b"sofa"
    assert case.rows.calls == [["a"]]


async def test_what_is_stale_is_better_than_nothing(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    assert await case.get("a") == (b"sofa", Source.L2)
    case.clock.advance(case.policy.l1_hard_ttl + case.policy.stale_limit / 2)
    case.change_policy(l2_enabled=False)
    case.rows.before.close()
    answer = await case.dataset.get("a", within(HURRY))
    assert (answer.value, answer.stale) == (b"sofa", True)


async def test_a_deadline_that_has_passed_asks_for_nothing_but_memory(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    await case.get("a")
    assert (await case.dataset.get("a", within(-1.0))).source is Source.L1
    with pytest.raises(DeadlineExceeded):
        await case.dataset.get("b", within(-1.0))
