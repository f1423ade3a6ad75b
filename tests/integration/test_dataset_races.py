"""Races on the read and write path, each held in place by gates. The numbers are those of the coherence contract's list.

Two cases of one namespace are two sidecars. A message is heard when the test calls `changed` or `on_partition_reset`, as the
connection to Redis would.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.tiers.memory.clock import MAX_TOMBSTONES
from cache_sidecar.tiers.ports import Record, Source, partition_of
from cache_sidecar.tiers.redis.l2 import RedisL2
from tests.support import dataset_case, inside
from tests.support.dataset_case import BYPASS, Case, Direct, open_case, reading, take_back
from tests.support.engine_params import L1S
from tests.support.gates import turns
from tests.support.until import until

L1, L2, STORE = Source.L1, Source.L2, Source.STORE


@pytest.fixture(autouse=True, params=L1S)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every race is held on each L1."""
    monkeypatch.setattr(dataset_case, "make_l1", request.param)


async def value_in_l2(case: Case, id: str = "a") -> tuple[int, bytes | None] | None:
    record = await case.in_l2(id)
    return record and (record.version, record.value)


def value_in_l1(case: Case, id: str = "a") -> bytes | None:
    entry = case.l1.get(id)
    return entry and entry.record.value


class Unreachable:
    """Makes an L2 fail from now on, without asking Redis."""

    def __init__(self, case: Case, monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
        async def fail(*_: Any, **__: Any) -> None:
            raise TierFailed(Tier.L2, Failure.TIMEOUT)

        for method in methods:
            monkeypatch.setattr(case.l2, method, fail)


# 1, 2, 3, 4, 23: an older value that arrives late


async def test_race_01_a_late_fill_from_the_store_replaces_nothing(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    late = reading(b)
    await a.rows.after.reached()
    await a.write("a", 2, b"new")
    b.dataset.on_invalidate("a", 2)
    a.rows.after.open()
    assert (await late).value == b"old"
    await b.settled()
    assert await value_in_l2(a) == (2, b"new")
    assert value_in_l1(b) is None
    assert await b.get("a") == (b"new", L2)


async def test_race_01_a_late_fill_by_the_writer_s_own_sidecar_replaces_nothing(a: Case) -> None:
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    late = reading(a)
    await a.rows.after.reached()
    await a.write("a", 2, b"new")
    a.rows.after.open()
    await late
    await a.settled()
    assert await a.get("a") == (b"new", L2)


async def test_race_02_a_late_fill_is_refused_when_also_what_refused_it_is_gone(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    late = reading(b)
    await a.rows.after.reached()
    await a.write("a", 2, b"new")
    b.dataset.on_invalidate("a", 2)
    await evict(a)
    a.rows.after.open()
    assert (await late).value == b"old"
    await b.settled()
    assert await value_in_l2(a) is None
    assert await b.get("a") == (b"new", STORE)


async def test_race_02_a_fill_from_before_is_not_taken_for_a_later_one_of_the_same_sidecar(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    late = reading(b)
    await a.rows.after.reached()
    await a.write("a", 2, b"new")
    await evict(a)
    # The next reader of the same sidecar has a lease of its own when the late fill arrives.
    b.dataset.on_invalidate("a", 2)
    a.rows.before.close()
    current = reading(b)
    await a.rows.before.reached()
    a.rows.after.open()
    await late
    await b.settled()
    assert await value_in_l2(a) is None
    a.rows.before.open()
    assert (await current).value == b"new"
    await b.settled()
    assert await value_in_l2(a) == (2, b"new")


async def evict(case: Case, id: str = "a") -> None:
    """Removes what Redis holds, as it may at any time, telling nobody."""
    client = Direct(case.l2)
    assert await client.unlink(inside.names_of(case.l2).key("product", id)) == 1


async def test_race_03_the_invalidation_overtakes_the_reply_of_redis(a: Case, b: Case) -> None:
    await a.write("a", 1, b"old")
    b.l2.after_read.close()
    late = reading(b)
    await b.l2.after_read.reached()
    await a.write("a", 2, b"new")
    b.dataset.on_invalidate("a", 2)
    b.l2.after_read.open()
    assert (await late).value == b"old"
    assert value_in_l1(b) is None
    assert await b.get("a") == (b"new", L2)


@pytest.mark.parametrize("tier", [L2, STORE])
@pytest.mark.parametrize("drop", ["partition", "id"])
async def test_race_04_a_fill_that_began_before_a_drop_is_not_stored(a: Case, b: Case, tier: Source, drop: str) -> None:
    if tier is L2:
        await a.write("a", 1, b"old")
        gate = b.l2.after_read
    else:
        a.rows.commit("a", 1, b"old")
        gate = a.rows.after
    gate.close()
    late = reading(b)
    await gate.reached()
    if drop == "partition":
        b.dataset.on_partition_reset(partition_of("a"))
    else:
        b.dataset.on_invalidate("a", 0)
    gate.open()
    assert (await late).source is tier
    assert value_in_l1(b) is None
    assert b.dataset.stats()[Source.L1].refused >= 1
    await b.settled()
    if tier is STORE:
        assert await value_in_l2(b) is None


async def test_race_23_a_refresh_that_ends_after_an_invalidation_brings_nothing_back(a: Case, b: Case) -> None:
    await a.write("a", 1, b"old")
    await b.get("a")
    b.clock.advance(100)
    b.l2.after_read.close()
    assert (await b.dataset.get("a")).source is L1
    await b.l2.after_read.reached()
    await a.write("a", 2, b"new")
    b.dataset.on_invalidate("a", 2)
    b.l2.after_read.open()
    await b.settled()
    assert await b.get("a") == (b"new", L2)


# 5: loads that others join


def told_of_version(case: Case) -> None:
    case.dataset.on_invalidate("a", 2)


def told_to_read_again(case: Case) -> None:
    case.dataset.on_invalidate("a", 0)


def told_of_a_gap(case: Case) -> None:
    case.dataset.on_partition_reset(partition_of("a"))


@pytest.mark.parametrize("tell", [told_of_version, told_to_read_again, told_of_a_gap])
async def test_race_05_whoever_comes_after_an_invalidation_does_not_join_the_load(
    a: Case, b: Case, tell: Callable[[Case], None]
) -> None:
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    before = reading(b)
    await a.rows.after.reached()
    a.rows.commit("a", 2, b"new")
    tell(b)
    after = reading(b)
    await until(lambda: len(a.rows.calls) == 2)
    a.rows.after.open()
    assert ((await before).value, (await after).value) == (b"old", b"new")


@pytest.mark.parametrize("tell", [told_of_version, told_to_read_again, told_of_a_gap])
async def test_race_05_nor_the_question_to_redis(a: Case, b: Case, tell: Callable[[Case], None]) -> None:
    await a.write("a", 1, b"old")
    b.l2.after_read.close()
    before = reading(b)
    await b.l2.after_read.reached()
    await a.write("a", 2, b"new")
    tell(b)
    after = reading(b)
    await turns(5)
    b.l2.after_read.open()
    assert ((await before).value, (await after).value) == (b"old", b"new")


# 6, 7, 8: what arrives in Redis out of order


async def test_race_06_two_writers_reach_redis_in_the_wrong_order(a: Case, b: Case) -> None:
    a.l2.before_change.close()
    first = asyncio.create_task(a.write("a", 2, b"second"))
    await a.l2.before_change.reached()
    await b.write("a", 3, b"third")
    a.l2.before_change.open()
    await first
    assert await value_in_l2(a) == (3, b"third")


async def test_race_07_a_late_fill_does_not_bring_back_what_was_deleted(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"sofa")
    a.rows.after.close()
    late = reading(b)
    await a.rows.after.reached()
    await a.write("a", 2, None)
    b.dataset.on_invalidate("a", 2)
    a.rows.after.open()
    await late
    await b.settled()
    assert await value_in_l2(a) == (2, None)
    assert await b.get("a") == (None, L2)


async def test_race_07_what_was_deleted_can_be_inserted_again(a: Case, b: Case) -> None:
    await a.write("a", 1, b"sofa")
    await a.write("a", 2, None)
    b.dataset.on_invalidate("a", 2)
    assert (await b.get("a"))[0] is None
    await a.write("a", 3, b"sofa again")
    b.dataset.on_invalidate("a", 3)
    assert await a.get("a") == await b.get("a") == (b"sofa again", L2)


async def test_race_07_a_late_deletion_does_not_hide_what_was_inserted_again(a: Case, b: Case) -> None:
    await a.write("a", 1, b"sofa")
    a.l2.before_change.close()
    deleting = asyncio.create_task(a.write("a", 2, None))
    await a.l2.before_change.reached()
    await b.write("a", 3, b"sofa again")
    a.l2.before_change.open()
    await deleting
    a.dataset.on_invalidate("a", 3)
    assert await a.get("a") == (b"sofa again", L2)


async def test_race_08_not_found_filled_after_the_insert(a: Case, b: Case) -> None:
    a.rows.after.close()
    late = reading(b)
    await a.rows.after.reached()
    await a.write("a", 1, b"sofa")
    b.dataset.on_invalidate("a", 1)
    a.rows.after.open()
    assert (await late).value is None
    await b.settled()
    assert await value_in_l2(a) == (1, b"sofa")
    assert await b.get("a") == (b"sofa", L2)


# 17: what Redis acknowledged and lost, because another node took over; the relay's part is in test_relay.py


async def test_race_17_a_sidecar_s_own_write_is_not_answered_with_less_after_redis_lost_it(a: Case) -> None:
    await a.write("a", 1, b"old")
    await a.write("a", 2, b"new")
    assert await a.get("a") == (b"new", L2)
    await take_back(a.l2, Record(1, a.clock.now(), b"old"))
    for _ in range(2):
        a.forget()  # trust was lost with the connection
        assert (await a.get("a"))[0] == b"new"


# 19: replicas, which may not have heard yet


async def test_race_19_a_replica_is_not_read(valkey: ValkeyServer, replica: ValkeyServer, namespace: str) -> None:
    async with open_case(valkey.address, namespace) as a, replica.client() as client:
        await a.write("a", 1, b"old")
        await until(lambda: client.exists(inside.names_of(a.l2).key("product", "a")))
        await client.replicaof("127.0.0.1", 1)  # it goes on serving what it has, and hears nothing any more
        await a.write("a", 2, b"new")
        async with open_case(replica.address, namespace, rows=a.rows, clock=a.clock) as b:
            assert await b.get("a") == (b"new", STORE)


# 25: the writer's own sidecar, from the moment of the reply


async def test_race_25_a_write_is_read_at_once(a: Case) -> None:
    await a.write("a", 1, b"old")
    await a.get("a")
    await a.write("a", 2, b"new")
    assert await a.get("a") == (b"new", L2)


async def test_race_25_a_question_to_redis_from_before_the_change_is_joined_in_vain(a: Case) -> None:
    await a.write("a", 1, b"old")
    a.l2.before_change.close()
    writing = asyncio.create_task(a.write("a", 2, b"new"))
    await a.l2.before_change.reached()
    # It asks after the commit, but reaches Redis before the change does.
    a.l2.after_read.close()
    early = reading(a)
    await a.l2.after_read.reached()
    a.l2.before_change.open()
    await writing
    acknowledged = reading(a)
    await asyncio.sleep(0)
    a.l2.after_read.open()
    assert (await acknowledged).value == b"new"
    await early
    await a.settled()
    assert (await a.get("a"))[0] == b"new"


async def test_race_25_nor_kept_when_the_tombstone_is_forgotten(a: Case) -> None:
    await a.write("a", 1, b"old")
    a.l2.before_change.close()
    writing = asyncio.create_task(a.write("a", 2, b"new"))
    await a.l2.before_change.reached()
    numbered = (f"id{number}" for number in range(10**6))
    for _ in range(MAX_TOMBSTONES + 1):
        a.dataset.on_invalidate(next(id for id in numbered if partition_of(id) == partition_of("a")), 2)
    a.l2.after_read.close()
    early = reading(a)
    await a.l2.after_read.reached()
    a.l2.before_change.open()
    await writing
    a.l2.after_read.open()
    await early
    assert (await a.get("a"))[0] == b"new"


async def test_race_25_a_write_that_redis_did_not_hear_of_is_read(a: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await a.write("a", 1, b"old")
    with monkeypatch.context() as patch:
        Unreachable(a, patch, "put_if_newer")
        await a.write("a", 2, b"new")
    assert await value_in_l2(a) == (1, b"old")
    assert await a.get("a") == (b"new", STORE)
    a.forget()
    assert await a.get("a") == (b"new", L2)
    assert await value_in_l2(a) == (2, b"new")


async def test_race_25_nor_does_an_entry_that_is_older_come_back_meanwhile(
    a: Case, b: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a.write("a", 1, b"old")
    Unreachable(a, monkeypatch, "put_if_newer", "fill")
    await a.write("a", 2, b"new")
    # The other sidecar was not told, and puts the old value into its memory; the writer's own does not.
    assert await b.get("a") == (b"old", L2)
    for _ in range(3):
        a.forget()
        assert await a.get("a") == (b"new", STORE)


async def test_race_25_an_older_failed_write_does_not_hide_a_newer_one(a: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    await a.write("a", 1, b"oldest")
    Unreachable(a, monkeypatch, "put_if_newer", "fill")
    await a.write("a", 3, b"newest")
    await a.dataset.publish({"a": a.dataset.record(2, b"old")})
    # The relay has told Redis of the older one only.
    await RedisL2.put_if_newer(a.l2, "product", {"a": Record(2, a.clock.now(), b"old")}, ttl=100)
    a.forget()
    assert (await a.get("a"))[0] == b"newest"


async def test_race_25_what_redis_was_told_later_is_believed_again(a: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Unreachable(a, patch, "put_if_newer")
        await a.write("a", 2, b"new")
    await a.l2.put_if_newer("product", {"a": 2}, ttl=100)  # as the relay does
    a.forget()
    assert await a.get("a") == (b"new", STORE)
    a.forget()
    assert await a.get("a") == (b"new", L2)


@pytest.mark.parametrize("everything", [True, False])
async def test_race_25_after_a_drop_nothing_from_before_it_is_read(a: Case, everything: bool) -> None:
    await a.write("a", 1, b"edited by hand since")
    a.rows.commit("a", 1, b"new")
    a.l2.before_drop.close()
    dropping = asyncio.create_task(a.dataset.drop_all() if everything else a.dataset.drop(["a"]))
    await a.l2.before_drop.reached()
    assert await a.get("a") == (b"edited by hand since", L2)
    a.l2.before_drop.open()
    await dropping
    assert await a.get("a") == (b"new", STORE)


@pytest.mark.parametrize("everything", [True, False])
async def test_race_25_nor_joined(a: Case, everything: bool) -> None:
    await a.write("a", 1, b"edited by hand since")
    a.rows.commit("a", 1, b"new")
    a.l2.after_read.close()
    before = reading(a)
    await a.l2.after_read.reached()
    await (a.dataset.drop_all() if everything else a.dataset.drop(["a"]))
    after = reading(a)
    await asyncio.sleep(0)
    a.l2.after_read.open()
    assert (await after).value == b"new"
    await before


# More


async def test_a_bypass_that_fills_redis_first_does_not_silence_the_change(a: Case, b: Case) -> None:
    """The writer's change finds its own version in Redis, filled by a reader: it must be told all the same."""
    a.rows.commit("a", 1, b"old")
    await b.get("a")
    a.rows.commit("a", 2, b"new")
    assert await a.get("a", BYPASS) == (b"new", STORE)
    count = await messages_of(a)
    await a.dataset.publish({"a": a.dataset.record(2, b"new")})
    assert await messages_of(a) == count + 1


async def messages_of(case: Case) -> int:
    client = Direct(case.l2)
    return int(await client.get(inside.names_of(case.l2).counter(partition_of("a"))) or 0)
