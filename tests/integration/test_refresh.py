"""Hot ids at the end of their time: one of all sidecars loads them anew, and no read waits for that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.core.errors import Failure
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.tiers.ports import Source
from tests.support import inside
from tests.support.dataset_case import BYPASS, POLICY, Case, Direct, open_case
from tests.support.until import until

L1, L2, STORE = Source.L1, Source.L2, Source.STORE
SIDECARS, READS = 4, 500
# What is kept in Redis alone, as stock is.
NO_MEMORY = POLICY.model_copy(update={"l1_soft_ttl": 0, "l1_hard_ttl": 0, "jitter": 0.1})


@pytest.fixture
async def sidecars(valkey_cluster: ValkeyCluster, namespace: str) -> AsyncIterator[list[Case]]:
    async with contextlib.AsyncExitStack() as stack:
        opened: list[Case] = []
        for _ in range(SIDECARS):
            shared = {"rows": opened[0].rows, "clock": opened[0].clock} if opened else {}
            opened.append(
                await stack.enter_async_context(open_case(",".join(valkey_cluster.addresses), namespace, unit=0.5, **shared))
            )
        yield opened


async def expire(case: Case) -> None:
    """Removes what Redis holds, as the end of its time does; the tests' clock is not the server's."""
    client = Direct(case.l2)
    assert await client.unlink(inside.names_of(case.l2).key("product", "a")) == 1


async def settled(sidecars: list[Case]) -> None:
    for case in sidecars:
        await case.settled()


async def test_a_hot_id_that_expires_is_loaded_once_and_no_read_waits(sidecars: list[Case]) -> None:
    first = sidecars[0]
    first.rows.commit("a", 1, b"sofa")
    for case in sidecars:
        await case.get("a")
    for expiry in range(1, 4):
        await expire(first)
        first.clock.advance(POLICY.l1_soft_ttl)
        first.rows.before.close()
        for _ in range(READS):
            for case in sidecars:
                answer = await case.dataset.get("a")
                # The load is held: whoever is answered did not wait for it.
                assert (answer.source, answer.stale) == (L1, False)
        await first.rows.before.reached()
        # Each of the others has looked, found the lease of the one that loads, and left it at that.
        await until(lambda: sum(len(case.dataset.loader.background.running) for case in sidecars) == 1)
        first.rows.before.open()
        await settled(sidecars)
        assert len(first.rows.calls) == 1 + expiry
        for case in sidecars:
            assert (await case.answer("a")).age <= POLICY.l1_soft_ttl
            assert (await case.answer("a")).age == 0
    assert all(case.dataset.stats()[L1].counters.refreshes >= 3 for case in sidecars)


async def test_what_only_redis_holds_is_loaded_once_before_it_expires_and_no_read_waits(sidecars: list[Case]) -> None:
    first = sidecars[0]
    for case in sidecars:
        case.policy = NO_MEMORY
    first.rows.commit("a", 1, b"sofa")
    await first.answer("a")
    first.clock.advance(0.8 * NO_MEMORY.l2_ttl)
    for case in sidecars:
        assert (await case.answer("a")).source is L2
    assert len(first.rows.calls) == 1
    first.clock.advance(0.1 * NO_MEMORY.l2_ttl)
    first.rows.before.close()
    for _ in range(READS // 10):
        for case in sidecars:
            assert (await case.dataset.get("a")).source is L2
    await first.rows.before.reached()
    first.rows.before.open()
    await settled(sidecars)
    assert len(first.rows.calls) == 2
    assert sum(case.dataset.stats()[L2].counters.refreshes for case in sidecars) == 1
    answers = [await case.answer("a") for case in sidecars]
    assert [(answer.source, answer.age) for answer in answers] == [(L2, 0)] * SIDECARS
    assert len(first.rows.calls) == 2


async def test_a_longer_load_begins_earlier(sidecars: list[Case]) -> None:
    case = sidecars[0]
    case.policy = NO_MEMORY
    case.rows.commit("a", 1, b"sofa")

    async def load(took: float) -> None:
        case.rows.before.close()
        reading = asyncio.create_task(case.dataset.get("a", BYPASS))
        await case.rows.before.reached()
        case.clock.advance(took)
        case.rows.before.open()
        await reading
        await case.settled()

    await case.answer("a")
    for _ in range(20):
        await load(100.0)
    case.clock.advance(0.75 * NO_MEMORY.l2_ttl)
    loads = len(case.rows.calls)
    assert (await case.answer("a")).source is L2
    assert len(case.rows.calls) == loads + 1


async def test_an_early_refresh_that_fails_leaves_what_is_there(sidecars: list[Case]) -> None:
    case = sidecars[0]
    case.policy = NO_MEMORY
    case.rows.commit("a", 1, b"sofa")
    await case.answer("a")
    case.clock.advance(0.9 * NO_MEMORY.l2_ttl)
    case.rows.failure = Failure.UNREACHABLE
    for _ in range(2):
        assert (await case.answer("a")).source is L2
    # The claim stands for a while: a PostgreSQL that fails is not asked by every read.
    assert len(case.rows.calls) == 2
