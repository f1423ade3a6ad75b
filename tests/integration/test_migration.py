"""Migrating a dataset to the caches in steps: rollout, shadow, and a switch per tier; on a real L1 and a real Redis cluster.

Two cases of one namespace are two sidecars. A message is heard when the test calls `changed`, as the connection to Redis would.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot
from structlog.testing import capture_logs

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.path import shadow
from cache_sidecar.tiers.path.rollout import is_in
from cache_sidecar.tiers.ports import Freshness, Record, Source
from tests.support import inside
from tests.support.dataset_case import BYPASS, POLICY, Case, OpenCase, fill
from tests.support.until import until

L1, L2, STORE = Source.L1, Source.L2, Source.STORE
IN = next(f"p{number}" for number in range(1000) if is_in(f"p{number}", 10))
OUT = next(f"p{number}" for number in range(1000) if not is_in(f"p{number}", 50))
BETWEEN = next(f"p{number}" for number in range(1000) if is_in(f"p{number}", 50) and not is_in(f"p{number}", 10))
OFF = {"l2_enabled": False}


@pytest.fixture
async def other(open_sidecar: OpenCase, case: Case) -> AsyncIterator[Case]:
    """A second sidecar of the shop."""
    async with open_sidecar(rows=case.rows, clock=case.clock) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "SETTLE", 0.0)


async def sources(case: Case, *ids: str) -> list[Source]:
    return [(await case.get(id))[1] for id in ids]


def counts(case: Case) -> tuple[int, int, int]:
    found = case.dataset.rollout.shadow
    return found.compared, found.mismatches, found.left_out


async def compared(case: Case) -> None:
    """Returns when every comparison has ended."""
    await until(lambda: not case.dataset.rollout.shadow.comparing.running)
    await case.settled()


# Rollout


async def test_only_what_is_rolled_out_goes_through_the_caches(case: Case) -> None:
    for number, id in enumerate((IN, BETWEEN, OUT), start=1):
        case.rows.commit(id, number, id.encode())
    case.change_policy(rollout=10)
    for _ in range(2):
        answers = await case.dataset.get_many([IN, BETWEEN, OUT])
        await case.settled()
    assert {id: answer.source for id, answer in answers.items()} == {IN: L1, BETWEEN: STORE, OUT: STORE}
    assert {id: answer.value for id, answer in answers.items()} == {id: id.encode() for id in answers}
    assert [await case.in_l2(id) is not None for id in (IN, BETWEEN, OUT)] == [True, False, False]
    stats = case.dataset.stats()
    assert (stats[L1].counters.hits, stats[L1].counters.misses) == (1, 1), "what is not rolled out is no miss"
    assert (stats[L2].counters.misses, stats[STORE].counters.hits, stats[STORE].loads) == (1, 5, 5)
    case.change_policy(rollout=50)
    await case.get(BETWEEN)
    assert await sources(case, IN, BETWEEN, OUT) == [L1, L1, STORE]


async def test_a_rollout_of_0_uses_no_cache_at_all(case: Case) -> None:
    await case.write(IN, 1, b"old")
    await case.get(IN)
    case.change_policy(rollout=0)
    reads = case.l2.reads
    case.rows.commit(IN, 2, b"new")  # told to nobody
    for wanted in (Freshness(), BYPASS, Freshness(max_age=1000)):
        assert await case.get(IN, wanted) == (b"new", STORE)
    record = await case.in_l2(IN)
    assert (case.l2.reads, record and record.version) == (reads, 1), "neither read nor filled"
    case.rows.failure = Failure.UNREACHABLE
    with pytest.raises(TierFailed):
        await case.get(IN)


async def test_a_read_past_the_caches_joins_no_read_that_began_before_it(case: Case) -> None:
    case.change_policy(rollout=0)
    case.rows.commit("a", 1, b"old")
    case.rows.after.close()
    first = asyncio.create_task(case.dataset.get("a"))
    await case.rows.after.reached()
    case.rows.commit("a", 2, b"new")
    second = asyncio.create_task(case.dataset.get("a"))
    await until(lambda: len(case.rows.calls) == 2)
    case.rows.after.open()
    assert ((await first).value, (await second).value) == (b"old", b"new")


async def test_readers_past_the_caches_still_share_a_query(case: Case) -> None:
    case.change_policy(rollout=0)
    case.rows.commit("a", 1, b"sofa")
    await asyncio.gather(*(case.dataset.get(id) for id in ["a", "b", "c"] * 50))
    assert len(case.rows.calls) == 1


async def test_a_rollout_that_shrinks_and_grows_again_serves_nothing_old(case: Case, other: Case) -> None:
    await case.write(BETWEEN, 1, b"old")
    await case.get(BETWEEN)
    await other.get(BETWEEN)
    case.change_policy(rollout=10)
    # Memory would have missed this one if nobody had told it.
    case.rows.commit(BETWEEN, 2, b"new")
    assert await case.get(BETWEEN) == (b"new", STORE)
    await case.dataset.publish({BETWEEN: case.dataset.record(2, b"new")})
    case.change_policy(rollout=50)
    assert await case.get(BETWEEN) == (b"new", STORE)
    other.dataset.on_invalidate(BETWEEN, 2)
    assert await other.get(BETWEEN) == (b"new", L2)


async def test_a_fill_that_began_before_its_key_left_the_rollout_is_not_kept(case: Case) -> None:
    case.rows.commit(OUT, 1, b"sofa")
    case.rows.after.close()
    late = asyncio.create_task(case.dataset.get(OUT))
    await case.rows.after.reached()
    case.change_policy(rollout=10)
    case.rows.after.open()
    assert (await late).value == b"sofa"
    assert case.l1.get(OUT) is None


async def test_the_rows_of_one_product_are_rolled_out_together(open_sidecar: OpenCase) -> None:
    async with open_sidecar(rollout_key=lambda id: id.split("/")[0]) as case:
        case.change_policy(rollout=10)
        ids = [f"{product}/{number}" for product in (IN, OUT) for number in range(5)]
        await case.dataset.get_many(ids)
        await case.settled()
        assert await sources(case, *ids) == [L1] * 5 + [STORE] * 5


# Writes, at every setting


@pytest.mark.parametrize("writer", [{"rollout": 0.0}, {"shadow": True}, {"l1_enabled": False}, OFF, {"rollout": 0.0} | OFF])
async def test_a_write_reaches_whoever_uses_the_caches(case: Case, other: Case, writer: dict) -> None:
    case.change_policy(**writer)
    await case.write("a", 1, b"old")
    for _ in range(2):
        await other.get("a")
    assert await sources(other, "a") == [L1]
    await case.write("a", 2, b"new")
    in_redis = await case.in_l2("a")
    assert in_redis is None or in_redis.version == 2, "what is older is gone"
    other.dataset.on_invalidate("a", 2)
    assert (await other.get("a"))[0] == b"new"
    await case.write("a", 3, None)
    other.dataset.on_invalidate("a", 3)
    assert (await other.get("a"))[0] is None
    assert (await case.get("a"))[0] is None


async def test_a_writer_that_does_not_read_redis_leaves_its_version_there_alone(case: Case, other: Case) -> None:
    case.change_policy(**OFF)
    await case.write("a", 2, b"new")
    assert await case.in_l2("a") is None
    # What is older is refused, as if the value was there.
    await fill(case.l2, "product", {"a": Record(1, 0.0, b"old")}, ttl=100)
    assert await case.in_l2("a") is None
    assert await other.get("a") == (b"new", STORE)
    assert await case.in_l2("a") is not None, "who reads it from Redis fills it in"


async def test_what_redis_was_not_told_is_not_believed_when_it_is_used_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise TierFailed(Tier.L2, Failure.TIMEOUT)

    await case.write("a", 1, b"old")
    case.change_policy(**OFF)
    with monkeypatch.context() as patch:
        patch.setattr(case.l2, "put_if_newer", fail)
        await case.write("a", 2, b"new")
    case.change_policy(l2_enabled=True)
    record = await case.in_l2("a")
    assert record is not None
    assert record.version == 1, "the relay has not told it yet"
    assert await case.get("a") == (b"new", STORE)


# A switch per tier


async def test_with_memory_off_redis_answers_and_nothing_is_kept(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    await case.get("a")
    case.change_policy(l1_enabled=False)
    assert await sources(case, "a", "a") == [L2, L2]
    assert case.l1.stats().bytes == 0, "the memory is given back"


async def test_memory_begins_with_nothing_when_it_is_switched_on(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    case.change_policy(l1_enabled=False)
    # A read that began while it was off, and ends when it is on.
    case.l2.after_read.close()
    late = asyncio.create_task(case.dataset.get("a"))
    await case.l2.after_read.reached()
    case.change_policy(l1_enabled=True)
    case.l2.after_read.open()
    await late
    assert case.l1.get("a") is None
    assert await sources(case, "a", "a") == [L2, L1]


async def test_with_redis_off_memory_goes_on_and_the_store_answers_the_rest(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.change_policy(**OFF)
    reads = case.l2.reads
    assert await sources(case, "a", "a") == [STORE, L1]
    case.clock.advance(100)
    assert await sources(case, "a") == [L1]
    assert (case.l2.reads, len(case.rows.calls)) == (reads, 2), "a refresh asks the store, too"
    assert await case.in_l2("a") is None
    case.change_policy(l2_enabled=True)
    case.forget()
    assert await sources(case, "a") == [STORE]
    assert await case.in_l2("a") is not None


async def test_redis_switched_off_during_a_load_leaves_others_nothing_to_wait_for(case: Case, other: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.rows.after.close()
    late = asyncio.create_task(case.dataset.get("a"))
    await case.rows.after.reached()
    case.change_policy(**OFF)
    case.rows.after.open()
    await late
    await case.settled()
    assert await case.in_l2("a") is None
    found = await other.l2.read_leased("product", ["a"])
    assert (set(found.leases), set(found.elsewhere)) == ({"a"}, set()), "its lease is given back"


async def test_with_both_off_every_read_is_the_store_s(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    case.change_policy(l1_enabled=False, l2_enabled=False)
    assert await sources(case, "a", "a") == [STORE, STORE]
    await case.dataset.drop(["a"])
    assert await case.in_l2("a") is None, "what is dropped is dropped everywhere"


# Times that change


async def test_a_new_time_counts_for_what_is_there(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    await case.get("none")
    case.clock.advance(50)
    case.change_policy(l1_soft_ttl=10.0, l1_hard_ttl=50.0)
    assert await sources(case, "a") == [L2]
    case.change_policy(l1_hard_ttl=300.0, l2_ttl=51.0)
    case.clock.advance(2)
    case.forget()
    assert await sources(case, "a") == [STORE]
    await case.get("none")
    case.change_policy(negative_ttl=5.0)
    case.clock.advance(6)
    assert await sources(case, "none") == [STORE]


async def test_a_longer_time_keeps_what_is_in_memory(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.change_policy(l1_soft_ttl=900.0, l1_hard_ttl=900.0)
    case.clock.advance(800)
    assert await sources(case, "a") == [L1]


async def seconds_left(case: Case, id: str = "a") -> float:
    """Returns how long Redis keeps an id from now on."""
    shards, key = inside.connection_of(case.l2).cluster, inside.names_of(case.l2).key("product", id)
    return int(await shards.ask(key_slot(key.encode()), "PTTL", key)) / 1000


async def test_a_longer_time_in_redis_counts_for_what_is_there(case: Case, other: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    await case.get("none")
    await case.l2.put_if_newer("product", {"marked": 7}, ttl=1000)
    assert 990 < await seconds_left(case) <= 1000
    case.clock.advance(300)
    for one in (case, other):
        one.change_policy(l2_ttl=5000.0)
    await case.settled()
    await other.settled()
    # 5000 after it was read; the rest is to be asked for again anyway.
    assert 4690 < await seconds_left(case) <= 4700
    assert await seconds_left(case, "none") <= 10
    assert await seconds_left(case, "marked") <= 1000
    case.change_policy(l2_ttl=2000.0)
    case.change_policy(l2_ttl=3000.0)
    await case.settled()
    assert await seconds_left(case) > 4600, "nothing goes earlier: what is too old is not served"


@pytest.mark.parametrize("unit", [0.0, 1.0])
async def test_no_old_jitter_outlives_a_new_time(open_sidecar: OpenCase, unit: float) -> None:
    async with open_sidecar(policy=POLICY.model_copy(update={"jitter": 0.5}), unit=unit) as case:
        case.rows.commit("a", 1, b"sofa")
        await case.get("a")
        case.change_policy(l1_soft_ttl=4.0, l1_hard_ttl=4.0)
        case.clock.advance(6)
        assert await sources(case, "a") == [L2]


# Shadow


async def test_in_shadow_the_store_answers_and_the_caches_run_beside_it(case: Case) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.change_policy(shadow=True)
    for _ in range(3):
        assert await case.get("a") == (b"sofa", STORE)
        await compared(case)
    stats = case.dataset.stats()
    assert (stats[L1].counters.hits, stats[L1].counters.misses, stats[L1].counters.fills) == (2, 1, 1)
    assert counts(case) == (2, 0, 0)
    case.change_policy(shadow=False)
    assert await sources(case, "a") == [L1], "the caches are warm"


@pytest.mark.parametrize("tier", [L1, L2])
async def test_shadow_finds_what_the_caches_would_get_wrong(case: Case, tier: Source) -> None:
    await case.write("a", 1, b"old")
    await case.get("a")
    case.change_policy(shadow=True, l1_enabled=tier is L1)
    case.rows.commit("a", 2, b"new")  # told to nobody
    with capture_logs() as logs:
        assert await case.get("a") == (b"new", STORE)
        await compared(case)
    assert counts(case) == (1, 1, 0)
    (log,) = logs
    assert (log["id"], log["cached_version"], log["stored_version"]) == ("a", 1, 2)
    assert (await case.get("a"))[0] == b"new"
    await compared(case)
    assert counts(case) == (2, 2, 0), "finding it mends nothing"


@pytest.mark.parametrize(
    ("cached", "stored"),
    [((1, b"same version"), (1, b"other content")), ((1, b"there"), None), ((1, None), (2, b"there")), (None, (1, b"there"))],
)
async def test_what_counts_as_a_mismatch(
    case: Case, cached: tuple[int, bytes | None] | None, stored: tuple[int, bytes] | None
) -> None:
    if cached:
        await case.write("a", *cached)
    await case.get("a")
    case.rows.commit("a", *(stored or (0, None)))
    case.change_policy(shadow=True)
    await case.get("a")
    await compared(case)
    assert counts(case) == (1, 1, 0)


async def test_caches_that_are_ahead_are_no_mismatch(case: Case) -> None:
    case.rows.commit("a", 1, b"old")
    case.change_policy(shadow=True)
    case.rows.after.close()
    reading = asyncio.create_task(case.dataset.get("a"))
    await case.rows.after.reached()
    await case.write("a", 2, b"new")
    case.rows.after.open()
    assert (await reading).value == b"old"
    await compared(case)
    assert counts(case) == (1, 0, 0)
    assert len(case.rows.calls) == 1, "there is nothing to look at once more"


async def second_look(case: Case) -> None:
    """Reads what PostgreSQL holds, and returns when the second look at it is held."""
    case.change_policy(shadow=True)
    value = case.rows.rows["a"].value
    assert (await case.dataset.get("a")).value == value
    case.rows.before.close()
    await case.rows.before.reached()


async def test_a_change_on_its_way_to_the_caches_is_no_mismatch(case: Case) -> None:
    await case.write("a", 1, b"old")
    case.rows.commit("a", 2, b"new")
    await second_look(case)
    await case.dataset.publish({"a": case.dataset.record(2, b"new")})
    case.rows.before.open()
    await compared(case)
    assert counts(case) == (1, 0, 0)


async def test_caches_that_follow_one_change_behind_are_no_mismatch(case: Case) -> None:
    await case.write("a", 1, b"old")
    case.rows.commit("a", 2, b"new")
    await second_look(case)
    await case.dataset.publish({"a": case.dataset.record(2, b"new")})
    case.rows.commit("a", 3, b"newer")  # on its way, as the last one was
    case.rows.before.open()
    await compared(case)
    assert counts(case) == (1, 0, 0)


async def test_caches_that_are_right_again_are_no_mismatch(case: Case) -> None:
    await case.get("a")
    case.rows.commit("a", 1, b"there")
    await second_look(case)
    case.rows.commit("a", 2)  # gone, as the caches say all the time
    case.rows.before.open()
    await compared(case)
    assert counts(case) == (1, 0, 0)


async def test_shadow_leaves_out_what_is_not_rolled_out(case: Case) -> None:
    case.change_policy(shadow=True, rollout=10)
    for id in (IN, OUT):
        await case.write(id, 1, b"sofa")
        await case.get(id)
        await compared(case)
    assert counts(case) == (1, 0, 0)
    assert case.l1.get(OUT) is None


async def test_in_shadow_memory_answers_nobody(case: Case) -> None:
    await case.write("a", 1, b"sofa")
    await case.get("a")
    assert case.dataset.hit("a") is not None
    case.change_policy(shadow=True)
    assert case.dataset.hit("a") is None
    case.change_policy(shadow=False)
    assert case.dataset.hit("a") is not None


async def test_a_sidecar_may_start_in_shadow(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=POLICY.model_copy(update={"shadow": True})) as case:
        await case.write("a", 1, b"sofa")
        for _ in range(2):
            assert await case.get("a") == (b"sofa", STORE)
            await compared(case)
        assert case.dataset.hit("a") is None
        assert counts(case) == (2, 0, 0)


async def test_shadow_never_delays_nor_fails_a_reply(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.rows.commit("a", 1, b"sofa")
    case.change_policy(shadow=True)
    monkeypatch.setattr(case.dataset.rollout.shadow.comparing, inside.MAX_RUNNING, 2)
    case.l2.before_read.close()
    for _ in range(4):
        assert await case.dataset.get("a") == (b"sofa", STORE, 1, 0.0, False, None)
    await case.l2.before_read.reached()
    assert counts(case) == (0, 0, 2)
    case.l2.before_read.open()
    await compared(case)
    case.rows.failure = Failure.UNREACHABLE
    with pytest.raises(TierFailed):
        await case.get("a")
