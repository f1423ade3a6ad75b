"""The read and write path, through a real L1 and a real Redis cluster, branch by branch."""

import asyncio

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.tiers.ports import Freshness, Source
from tests.support.dataset_case import BYPASS, POLICY, Case, OpenCase, open_case
from tests.support.free_ports import free_ports
from tests.support.until import until

L1, L2, STORE = Source.L1, Source.L2, Source.STORE


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    (port,) = free_ports([0])
    return f"127.0.0.1:{port}"


# Down and up again


async def test_a_cold_read_is_the_store_s_and_the_next_is_l1_s(case: Case) -> None:
    case.rows.commit("a", 7, b"sofa")
    first = await case.answer("a")
    assert (first.value, first.source, first.version, first.age, first.stale) == (b"sofa", STORE, 7, 0.0, False)
    case.clock.advance(3)
    second = await case.answer("a")
    assert (second.value, second.source, second.version, second.age, second.stale) == (b"sofa", L1, 7, 3.0, False)
    assert case.rows.calls == [["a"]]


async def test_a_second_sidecar_reads_from_redis_first(case: Case, open_sidecar: OpenCase) -> None:
    case.rows.commit("a", 7, b"sofa")
    await case.get("a")
    async with open_sidecar(rows=case.rows, clock=case.clock) as other:
        case.clock.advance(3)
        answer = await other.answer("a")
        assert (answer.value, answer.source, answer.version, answer.age) == (b"sofa", L2, 7, 3.0)
        assert await other.get("a") == (b"sofa", L1)
    assert case.rows.calls == [["a"]]


async def test_an_l1_hit_asks_nobody(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    reads = case.l2.reads
    await case.get("a")
    assert case.l2.reads == reads


async def test_many_ids_come_from_wherever_they_are(case: Case) -> None:
    for number, id in enumerate("abc", start=1):
        case.rows.commit(id, number, id.encode())
    await case.get("b")
    case.forget()
    await case.get("a")
    answers = await case.dataset.get_many(["a", "b", "c", "missing", "a"])
    assert {id: (answer.value, answer.source) for id, answer in answers.items()} == {
        "a": (b"a", L1),
        "b": (b"b", L2),
        "c": (b"c", STORE),
        "missing": (None, STORE),
    }
    assert case.rows.calls[-1] == ["c", "missing"]
    assert await case.dataset.get_many([]) == {}


async def test_without_trust_nothing_is_kept_in_memory(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.freshness_lease(trusted=False)
    assert [await case.get("a") for _ in range(3)] == [(b"sofa", STORE), (b"sofa", L2), (b"sofa", L2)]


async def test_the_counters_say_who_answered(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    await case.get("a")
    case.forget()
    await case.get("a")
    await asyncio.gather(*(case.dataset.get("new") for _ in range(5)))
    await case.settled()
    stats = case.dataset.stats()
    assert (stats[L1].counters.hits, stats[L1].counters.misses, stats[L1].counters.fills) == (1, 7, 3)
    assert (stats[L2].counters.hits, stats[L2].counters.misses, stats[L2].counters.fills) == (1, 6, 2)
    assert (stats[STORE].counters.hits, stats[STORE].loads, stats[STORE].coalesced) == (6, 2, 4)
    assert stats[L1].entries == 2
    assert stats[L1].bytes > 0


# There is none


async def test_there_is_none_is_remembered_for_its_time_everywhere(case: Case) -> None:
    assert [await case.get("a") for _ in range(2)] == [(None, STORE), (None, L1)]
    case.forget()
    case.clock.advance(9.9)
    assert await case.get("a") == (None, L2)
    case.clock.advance(0.2)
    case.rows.commit("a", 1, b"sofa")
    case.forget()
    assert await case.get("a") == (b"sofa", STORE)


@pytest.mark.parametrize("unit", [0.0, 1.0])
async def test_jitter_moves_there_is_none_by_its_own_time(open_sidecar: OpenCase, unit: float) -> None:
    policy = POLICY.model_copy(update={"jitter": 0.1})
    async with open_sidecar(policy=policy, unit=unit) as case:
        await case.get("a")
        case.clock.advance(8.9)
        assert await case.get("a") == (None, L1)
        case.clock.advance(2.2)
        assert (await case.get("a"))[1] is not L1


async def test_without_negative_caching_each_read_asks_the_store(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=POLICY.model_copy(update={"negative_ttl": 0.0})) as case:
        assert [await case.get("a") for _ in range(2)] == [(None, STORE)] * 2


async def test_a_deletion_is_remembered_like_a_value(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    await case.write("a", 2, None)
    assert await case.get("a") == (None, L2)
    case.clock.advance(90)
    answer = await case.answer("a")
    assert (answer.value, answer.source, answer.version) == (None, L1, 2)


# Growing old


@pytest.mark.parametrize("in_redis", [True, False])
async def test_past_its_soft_time_an_entry_is_served_and_refreshed(case: Case, in_redis: bool) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    if not in_redis:
        await case.l2.drop("product", ["a"])
    case.clock.advance(100)
    assert await case.get("a") == (b"sofa", L1)
    # The refresh counts anew: well past the first hard time, memory still answers.
    case.clock.advance(150)
    assert await case.get("a") == (b"sofa", L1)
    assert len(case.rows.calls) == (1 if in_redis else 2)


async def test_one_refresh_however_many_readers(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.clock.advance(100)
    reads = case.l2.reads
    case.l2.before_read.close()
    for _ in range(50):
        assert (await case.dataset.get("a")).source is L1
    await case.l2.before_read.reached()
    case.l2.before_read.open()
    await case.settled()
    assert case.l2.reads == reads + 1


async def test_a_refresh_that_fails_leaves_the_entry_and_no_noise(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    await case.l2.drop("product", ["a"])
    case.rows.failure = Failure.UNREACHABLE
    case.clock.advance(100)
    with capture_logs() as logs:
        assert await case.get("a") == (b"sofa", L1)
        assert await case.get("a") == (b"sofa", L1)
    assert logs == []


async def test_past_its_hard_time_an_entry_is_not_served(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.clock.advance(200)
    assert await case.get("a") == (b"sofa", L2)


async def test_what_redis_keeps_too_long_is_not_served(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.clock.advance(1000)
    assert await case.get("a") == (b"sofa", STORE)


# What the caller asks for


async def test_a_maximum_age_goes_down_as_far_as_it_must(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.clock.advance(5)
    assert await case.get("a", Freshness(max_age=5)) == (b"sofa", L1)
    case.forget()
    assert await case.get("a", Freshness(max_age=5)) == (b"sofa", L2)
    assert await case.get("a", Freshness(max_age=4)) == (b"sofa", STORE)
    assert await case.get("a", Freshness(max_age=0)) == (b"sofa", L1)


async def test_a_maximum_age_does_not_join_a_load_under_way(case: Case) -> None:
    case.rows.commit("a", 1, b"old")
    case.rows.after.close()
    first = asyncio.create_task(case.dataset.get("a"))
    await case.rows.after.reached()
    case.rows.commit("a", 2, b"new")
    fresh = asyncio.create_task(case.dataset.get("a", Freshness(max_age=60)))
    await until(lambda: len(case.rows.calls) == 2)
    case.rows.after.open()
    assert ((await first).value, (await fresh).value) == (b"old", b"new")


async def test_bypass_asks_the_store_and_fills_the_caches(case: Case) -> None:
    case.rows.commit("a", 1, b"old")
    await case.get("a")
    case.rows.commit("a", 2, b"new")
    assert await case.get("a", BYPASS) == (b"new", STORE)
    assert await case.get("a") == (b"new", L1)
    record = await case.in_l2("a")
    assert record is not None
    assert record.version == 2


# PostgreSQL away


@pytest.mark.parametrize("failure", list(Failure))
async def test_without_the_store_an_old_entry_is_served_and_marked(case: Case, failure: Failure) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    await case.l2.drop("product", ["a"])
    case.rows.failure = failure
    case.clock.advance(204)
    answer = await case.answer("a")
    assert (answer.value, answer.source, answer.age, answer.stale) == (b"sofa", L1, 204.0, True)
    case.clock.advance(1)
    with pytest.raises(TierFailed) as caught:
        await case.get("a")
    assert caught.value.failure is failure


async def test_without_the_store_what_nobody_holds_is_refused(case: Case) -> None:
    case.rows.failure = Failure.TIMEOUT
    with pytest.raises(TierFailed):
        await case.get("a")
    with pytest.raises(TierFailed):
        await case.get("a", BYPASS)
    assert case.dataset.stats()[STORE].counters.errors == 2


async def test_when_the_store_is_back_reads_are_fresh(case: Case) -> None:
    case.rows.failure = Failure.UNREACHABLE
    with pytest.raises(TierFailed):
        await case.get("a")
    case.rows.failure = None
    case.rows.commit("a", 1, b"sofa")
    assert await case.get("a") == (b"sofa", STORE)


# Redis away


async def test_without_redis_reads_go_on_from_the_store(nobody: str, namespace: str) -> None:
    async with open_case(nobody, namespace) as case:
        case.freshness_lease(trusted=False)
        case.rows.commit("a", 1, b"sofa")
        assert [await case.get("a") for _ in range(3)] == [(b"sofa", STORE)] * 3
        assert case.dataset.stats()[L2].counters.errors == 3


async def test_without_redis_a_cluster_s_reads_go_on_too(nobody: str, namespace: str) -> None:
    async with open_case(nobody, namespace, redis_mode="cluster") as case:
        case.rows.commit("a", 1, b"sofa")
        assert await case.get("a") == (b"sofa", STORE)
        await case.dataset.publish({"a": case.dataset.record(2, b"new")})


async def test_an_l1_that_cannot_hear_serves_stale_for_a_while(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.freshness_lease(trusted=False)
    case.clock.advance(5)
    answer = await case.answer("a")
    assert (answer.source, answer.stale) == (L1, True)
    case.clock.advance(1)
    assert (await case.get("a"))[1] is L2


# Dropping


async def test_a_drop_empties_memory_and_redis(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    await case.dataset.drop(["a"])
    assert await case.in_l2("a") is None
    assert await case.get("a") == (b"sofa", STORE)


async def test_dropping_everything_says_how_much_there_was(case: Case) -> None:
    for id in "abc":
        case.rows.commit(id, 1, b"sofa")
    await case.dataset.get_many("abc")
    await case.settled()
    assert await case.dataset.drop_all() == 3
    assert {answer.source for answer in (await case.dataset.get_many("abc")).values()} == {STORE}


@pytest.mark.parametrize("everything", [True, False])
async def test_a_drop_without_redis_empties_memory_and_says_so(nobody: str, namespace: str, everything: bool) -> None:
    async with open_case(nobody, namespace) as case:
        case.rows.commit("a", 1, b"sofa")
        assert await case.get("a") == (b"sofa", STORE)
        assert await case.get("a") == (b"sofa", L1)
        with pytest.raises(TierFailed):
            await (case.dataset.drop_all() if everything else case.dataset.drop(["a"]))
        assert await case.get("a") == (b"sofa", STORE)
