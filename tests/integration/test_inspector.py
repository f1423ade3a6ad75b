"""The inspector: what memory serves is compared with PostgreSQL, and what is older than it may be is found."""

import pytest

from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.tiers.path.inspector import Inspection, Inspector
from cache_sidecar.tiers.ports import Source, partition_of
from tests.support.dataset_case import POLICY, Case, OpenCase

BOUND = 10.0
EVERY_HIT = POLICY.model_copy(update={"inspect_every": 1, "staleness_bound": BOUND})


async def opened(case: Case, *ids: str) -> Inspector:
    """Returns the inspector of a case whose memory holds ids at version 1."""
    inspector = Inspector(case.dataset, case.rows, clock=case.clock)
    await inspector.step()  # from here on hits are taken
    for id in ids:
        case.rows.commit(id, 1, b"old")
        await case.get(id)
    return inspector


async def test_hits_that_are_as_new_as_postgresql_are_fresh(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=EVERY_HIT) as case:
        inspector = await opened(case, "a", "b")
        await case.write("b", 2, b"new")
        for id in "abab":
            await case.get(id)
        await case.write("c", 3, None)
        await case.get("c")
        assert (await case.get("c")) == (None, Source.L1)
        case.rows.calls.clear()
        await inspector.step()
        assert sorted(case.rows.calls.pop()) == ["a", "b", "c"], "one query for all"
        assert inspector.counts.stale == inspector.counts.violations == 0
        assert inspector.counts.fresh >= 4


@pytest.mark.parametrize("value", [b"new", None])
async def test_a_change_that_arrives_within_the_bound_is_no_violation(open_sidecar: OpenCase, value: bytes | None) -> None:
    async with open_sidecar(policy=EVERY_HIT) as case:
        inspector = await opened(case, "a")
        case.rows.commit("a", 2, value)
        assert await case.get("a") == (b"old", Source.L1)
        await inspector.step()
        case.dataset.on_invalidate("a", 2)
        case.clock.advance(BOUND)
        await inspector.step()
        assert inspector.counts == Inspection(stale=1)


@pytest.mark.parametrize("value", [b"new", None])
async def test_a_change_that_never_arrives_is_found(open_sidecar: OpenCase, value: bytes | None) -> None:
    async with open_sidecar(policy=EVERY_HIT) as case:
        inspector = await opened(case, "a")
        case.rows.commit("a", 2, value)
        assert await case.get("a") == (b"old", Source.L1)
        await inspector.step()
        case.clock.advance(BOUND - 1)
        await inspector.step()
        assert inspector.counts == Inspection(), "it may still arrive"
        case.clock.advance(1)
        await inspector.step()
        assert inspector.counts == Inspection(violations=1)


async def test_an_insertion_that_never_arrives_is_found(open_sidecar: OpenCase) -> None:
    policy = EVERY_HIT.model_copy(update={"negative_ttl": 100.0})
    async with open_sidecar(policy=policy) as case:
        inspector = await opened(case)
        for _ in range(2):
            assert (await case.get("a"))[0] is None
        case.rows.commit("a", 2, b"new")
        await inspector.step()
        case.clock.advance(BOUND)
        await inspector.step()
        assert inspector.counts == Inspection(violations=1)


async def test_a_hit_that_said_it_may_be_stale_is_not_counted(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=EVERY_HIT) as case:
        inspector = await opened(case, "a")
        case.rows.commit("a", 2, b"new")
        case.freshness_lease(trusted=False)
        assert (await case.answer("a")).stale
        await inspector.step()
        assert case.rows.calls == [["a"]], "nothing was asked beside the first load"


async def test_what_says_stale_by_the_time_the_bound_has_passed_is_no_violation(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=EVERY_HIT) as case:
        inspector = await opened(case, "a")
        case.rows.commit("a", 2, b"new")
        await case.get("a")
        await inspector.step()
        case.dataset.set_lagging(partition_of("a"), lagging=True)
        case.clock.advance(BOUND)
        await inspector.step()
        assert inspector.counts == Inspection(stale=1)


async def test_a_postgresql_that_is_away_leaves_the_hits_uncounted(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=EVERY_HIT) as case:
        inspector = await opened(case, "a")
        await case.get("a")
        case.rows.failure = Failure.UNREACHABLE
        with pytest.raises(TierFailed):
            await inspector.step()
        case.rows.failure = None
        await inspector.step()
        assert inspector.counts == Inspection()
