"""Leases across sidecars: one loads, the others wait for it, and nobody waits for who is dead. Two cases of one namespace are
two sidecars."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.tiers.path import leases
from cache_sidecar.tiers.ports import Answer, Freshness, Record, Source
from cache_sidecar.tiers.redis import l2 as module
from cache_sidecar.tiers.redis.l2 import RedisL2
from tests.support import inside
from tests.support.dataset_case import Case, Direct, OpenL2, fill, one_id_per_partition, open_l2, reading
from tests.support.until import until

L1, L2, STORE = Source.L1, Source.L2, Source.STORE
NEW = Record(2, 1000.0, b"new")


@pytest.fixture
async def either(open_either: OpenL2) -> AsyncIterator[RedisL2]:
    async with open_either() as opened:
        yield opened


@pytest.fixture
async def other(open_either: OpenL2) -> AsyncIterator[RedisL2]:
    async with open_either() as opened:
        yield opened


async def put(l2: RedisL2, lease: bytes | None, record: Record = NEW) -> Record | None:
    """Fills under a lease, or none, and returns what Redis holds then."""
    await l2.fill("product", {"a": record}, {} if lease is None else {"a": lease}, ttl=60)
    return (await l2.read("product", ["a"])).get("a")


# In Redis


async def test_who_finds_nothing_first_has_the_lease(either: RedisL2, other: RedisL2) -> None:
    first = await either.read_leased("product", ["a"])
    assert (first.records, set(first.leases), set(first.elsewhere)) == ({}, {"a"}, set())
    assert await other.read_leased("product", ["a"]) == ({}, {}, {"a"})
    # The holder's own next reader finds it, too.
    assert await either.read_leased("product", ["a"]) == first
    assert await either.read("product", ["a"]) == {}
    assert not either.unreadable


async def test_the_holder_s_fill_is_taken_once_and_nobody_else_s(either: RedisL2, other: RedisL2) -> None:
    lease = (await either.read_leased("product", ["a"])).leases["a"]
    assert await put(other, None) is None
    assert await put(other, lease[:-1] + b"x") is None
    assert await put(either, lease) == NEW
    assert await other.read_leased("product", ["a"]) == ({"a": NEW}, {}, set())


async def test_a_change_ends_a_lease(either: RedisL2) -> None:
    lease = (await either.read_leased("product", ["a"])).leases["a"]
    await either.put_if_newer("product", {"a": NEW}, ttl=60)
    assert await put(either, lease, Record(1, 0.0, b"old")) == NEW


@pytest.mark.parametrize("end", ["evicted", "dropped"])
async def test_so_does_whatever_removes_it(either: RedisL2, end: str) -> None:
    lease = (await either.read_leased("product", ["a"])).leases["a"]
    if end == "dropped":
        await either.drop("product", ["a"])
    else:
        await evict(either)
    assert await put(either, lease) is None
    assert (await either.read_leased("product", ["a"])).leases["a"] != lease


async def test_a_lease_that_is_given_back_is_the_next_one_s(either: RedisL2, other: RedisL2) -> None:
    lease = (await either.read_leased("product", ["a"])).leases["a"]
    await other.release("product", {"a": lease[:-1] + b"x"})
    assert not (await other.read_leased("product", ["a"])).leases
    await either.release("product", {"a": lease})
    assert (await other.read_leased("product", ["a"])).leases
    await either.put_if_newer("product", {"a": NEW}, ttl=60)
    await either.release("product", {"a": lease})
    assert await either.read("product", ["a"]) == {"a": NEW}


async def test_a_lease_in_place_of_a_mark_still_refuses_what_is_older(either: RedisL2, other: RedisL2) -> None:
    await either.put_if_newer("product", {"a": 2}, ttl=60)
    lease = (await either.read_leased("product", ["a"])).leases["a"]
    assert (await other.read_leased("product", ["a"])).elsewhere == {"a"}
    assert await put(either, lease, Record(1, 0.0, b"old")) is None
    lease = (await either.read_leased("product", ["a"])).leases["a"]
    assert await put(either, lease) == NEW
    assert not either.unreadable + other.unreadable


async def test_a_lease_ends_by_itself(either: RedisL2) -> None:
    await either.read_leased("product", ["a"])
    client = Direct(either)
    assert 0 < await client.pttl(inside.names_of(either).key("product", "a")) <= module.LEASE_MILLISECONDS


async def test_many_ids_of_all_nodes_are_read_in_one_call_of_each(l2: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = one_id_per_partition()
    await fill(l2, "product", {id: Record(1, 0.0, id.encode()) for id in ids[:200]}, ttl=60)
    calls: list[object] = []
    send = inside.cluster_of(l2).send
    monkeypatch.setattr(inside.cluster_of(l2), "send", lambda commands, **how: calls.extend(commands) or send(commands, **how))
    found = await l2.read_leased("product", ids)
    assert len(calls) == 3
    assert found.records == {id: Record(1, 0.0, id.encode()) for id in ids[:200]}
    assert set(found.leases) == set(ids[200:])


async def test_what_is_on_another_node_than_expected_is_found_all_the_same(
    l2: RedisL2, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = one_id_per_partition()
    await fill(l2, "product", {id: Record(1, 0.0, id.encode()) for id in ids[:200]}, ttl=60)

    monkeypatch.setattr(inside.cluster_of(l2), "group_by_node", lambda slots: [list(range(len(list(slots))))])
    found = await l2.read_leased("product", ids)
    assert found.records == {id: Record(1, 0.0, id.encode()) for id in ids[:200]}
    assert set(found.leases) == set(ids[200:])


async def test_a_full_redis_is_read_without_leases(valkey: ValkeyServer, namespace: str) -> None:
    async with open_l2(valkey.address, namespace) as l2, valkey.client() as client:
        await fill(l2, "product", {"a": NEW}, ttl=60)
        await client.config_set("maxmemory", "1")
        try:
            assert await l2.read_leased("product", ["a", "b"]) == ({"a": NEW}, {}, ())
        finally:
            await client.config_set("maxmemory", "0")


async def test_a_claim_is_one_s(either: RedisL2, other: RedisL2) -> None:
    assert await either.claim("product", "a", ttl=60)
    assert not await other.claim("product", "a", ttl=60)
    assert await other.claim("product", "b", ttl=60)


async def evict(l2: RedisL2, id: str = "a") -> None:
    """Removes what Redis holds, as it may at any time; so a lease ends, too."""
    client = Direct(l2)
    assert await client.unlink(inside.names_of(l2).key("product", id)) == 1


# In the read path


async def loading(case: Case, id: str = "a") -> asyncio.Task[Answer]:
    """Returns a read that has the lease and is held before it asks PostgreSQL."""
    case.rows.before.close()
    holder = reading(case, id)
    await case.rows.before.reached()
    return holder


async def has_looked_again(case: Case) -> None:
    """Returns when who waits has found that the other still loads."""
    looks = case.l2.reads
    await until(lambda: case.l2.reads > looks + 1)


async def test_the_second_sidecar_waits_for_what_the_first_loads(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"sofa")
    holder = await loading(a)
    waiting = [reading(b) for _ in range(20)]
    await has_looked_again(b)
    a.rows.before.open()
    assert {answer.source for answer in await asyncio.gather(*waiting)} == {L2}
    assert (await holder).source is STORE
    assert a.rows.calls == [["a"]]
    assert await b.get("a") == (b"sofa", L1)


async def test_also_to_hear_that_there_is_none(a: Case, b: Case) -> None:
    await loading(a)
    waiting = reading(b)
    await has_looked_again(b)
    a.rows.before.open()
    assert (await waiting)[:2] == (None, L2)
    assert a.rows.calls == [["a"]]


async def test_nobody_waits_for_a_holder_that_is_dead(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"sofa")
    holder = await loading(a)
    waiting = reading(b)
    await has_looked_again(b)
    await evict(a.l2)  # the lease ends
    await until(lambda: len(a.rows.calls) == 2)
    assert a.rows.calls == [["a"], ["a"]]
    a.rows.before.open()
    assert (await waiting).source is STORE
    await holder


async def test_nor_for_ever_for_one_that_hangs(a: Case, b: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "GIVE_UP", 0.0)
    holder = await loading(a)
    waiting = reading(b)
    await until(lambda: len(a.rows.calls) == 2)
    a.rows.before.open()
    await asyncio.gather(waiting, holder)


async def test_a_load_that_fails_gives_its_lease_back(a: Case, b: Case) -> None:
    a.rows.failure = Failure.UNREACHABLE
    holder = await loading(a)
    waiting = reading(b)
    await has_looked_again(b)
    a.rows.before.open()
    with pytest.raises(TierFailed):
        await holder
    a.rows.failure = None
    a.rows.commit("a", 1, b"sofa")
    assert (await waiting).value == b"sofa"


async def test_a_load_that_is_out_of_date_gives_its_lease_back(a: Case, b: Case) -> None:
    holder = await loading(a)
    a.dataset.on_invalidate("a", 0)
    a.rows.before.open()
    await holder
    await a.settled()
    assert (await b.l2.read_leased("product", ["a"])).leases


async def test_who_has_something_stale_does_not_wait(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"sofa")
    await b.get("a")
    await evict(b.l2)
    a.clock.advance(203)  # over the hard TTL, within the limit of what may be stale
    holder = await loading(a)
    answer = await b.answer("a")
    assert (answer.value, answer.source, answer.stale) == (b"sofa", L1, True)
    waiting = reading(b, wanted=Freshness(max_age=1))
    await has_looked_again(b)
    a.rows.before.open()
    assert (await waiting)[:2] == (b"sofa", L2)
    await holder
    assert len(a.rows.calls) == 2


async def test_what_is_waited_for_is_not_joined_after_a_change(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"old")
    holder = await loading(a)
    b.l2.after_read.close()
    before = reading(b)
    b.l2.after_read.open()
    await has_looked_again(b)
    b.l2.after_read.close()
    a.rows.before.open()
    await holder
    await a.settled()
    await b.l2.after_read.reached()
    await a.write("a", 2, b"new")
    b.dataset.on_invalidate("a", 2)
    after = reading(b)
    b.l2.after_read.open()
    await before
    assert (await after).value == b"new"


async def test_a_reader_that_left_does_not_keep_its_sidecar_from_loading(a: Case) -> None:
    a.l2.after_read.close()
    leaving = reading(a)
    await a.l2.after_read.reached()
    leaving.cancel()
    a.l2.after_read.open()
    a.rows.commit("a", 1, b"sofa")
    assert await a.get("a") == (b"sofa", STORE)
    assert await a.in_l2("a") is not None


async def test_one_of_all_loads_what_another_program_changed(a: Case, b: Case) -> None:
    await a.write("a", 1, b"old")
    await b.get("a")
    a.rows.commit("a", 2, b"new")
    await a.l2.put_if_newer("product", {"a": 2}, ttl=60)  # as the relay does
    for case in (a, b):
        case.dataset.on_invalidate("a", 2)
    holder = await loading(a)
    waiting = reading(b)
    await has_looked_again(b)
    a.rows.before.open()
    assert [(await answer).value for answer in (holder, waiting)] == [b"new", b"new"]
    assert a.rows.calls == [["a"]]


async def test_that_a_row_is_gone_is_remembered_also_when_only_a_mark_told_so(a: Case, b: Case) -> None:
    await a.l2.put_if_newer("product", {"a": 2}, ttl=60)
    for _ in range(3):
        assert (await b.get("a"))[0] is None
        b.forget()
    assert len(a.rows.calls) <= 2
