"""Redis after an outage: its values are out of date, and are not read before the relay says that they no longer are."""

from collections.abc import Mapping, Sequence

import pytest

from cache_sidecar.clock import ManualClock
from cache_sidecar.dependencies import Dependencies
from cache_sidecar.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.dataset import Dataset
from cache_sidecar.tiers.fence import CLOCKS, Fence, FencedL2
from cache_sidecar.tiers.guard import Guard
from cache_sidecar.tiers.l1 import NO_L1
from cache_sidecar.tiers.l2 import RedisL2
from cache_sidecar.tiers.ports import PARTITIONS, Freshness, Record, Row, Source
from cache_sidecar.tiers.region import Region
from cache_sidecar.tiers.signs import RedisSigns
from tests.tiers import POLICY

OLD, NEW = Record(1, 0.0, b"old"), Record(2, 0.0, b"new")


async def test_what_a_primary_held_before_an_outage_is_not_read_until_the_relay_told_it_the_rest(l2: RedisL2) -> None:
    clock = ManualClock()
    fence = Fence(longest=lambda: 10.0, clock=clock)
    fenced = FencedL2(l2._connection, l2._names, fence)
    signs = RedisSigns(l2._connection, l2._names)
    region = Region(signs, {"catalog": []}, waiting={"catalog": [fence]}, clock=clock, dependencies=Dependencies())
    await l2.change("product", {"a": OLD}, ttl=60)
    assert (await fenced.read_leased("product", ["a"])).records == {"a": OLD}
    for trusted in (False, True):
        clock.advance(1)
        for partition in range(PARTITIONS):
            fence.set_trusted(partition, trusted)
    await signs.caught_up(["catalog"], clock.now() - 1)
    await region.step()
    # No record, and no lease: nobody is to wait for the one who reads it from PostgreSQL.
    assert await fenced.read_leased("product", ["a", "b"]) == ({}, {}, ())
    # What was read there is filled in, over what is older.
    await fenced.fill("product", {"a": NEW}, {}, ttl=60, now=clock.now())
    await signs.caught_up(["catalog"], clock.now() + CLOCKS)
    await region.step()
    assert (await fenced.read_leased("product", ["a"])).records == {"a": NEW}


async def test_what_is_in_doubt_is_answered_marked_stale_when_postgresql_cannot_tell(l2: RedisL2) -> None:
    clock, is_there = ManualClock(), True
    fence = Fence(longest=lambda: 10.0, clock=clock)
    guard = Guard(Tier.L2, timeout=10, max_running=4, max_waiting=4)

    async def load(ids: Sequence[str]) -> Mapping[str, Row]:
        if not is_there:
            raise TierFailed(Tier.STORE, Failure.UNREACHABLE)
        return {id: Row(2, b"new") for id in ids}

    fenced = FencedL2(l2._connection, l2._names, fence)
    products = Dataset("product", l1=NO_L1, l2=fenced, load=load, l2_guard=guard, policy=lambda: POLICY, clock=clock)
    await l2.change("product", {id: Record(1, clock.now(), b"old") for id in "abc"}, ttl=600)
    await l2.change("product", {"b": Record(2, clock.now(), None)}, ttl=600)
    for partition in range(PARTITIONS):
        fence.set_trusted(partition, False)
    answer = await products.get("a")
    assert (answer.value, answer.source, answer.stale) == (b"new", Source.STORE, False)
    await products.close()
    is_there = False
    answer = await products.get("c")
    assert (answer.value, answer.source, answer.stale) == (b"old", Source.L2, True)
    # That there is none is nothing to be answered in doubt, and who wants PostgreSQL gets nothing less.
    for id, wanted in (("b", Freshness()), ("d", Freshness()), ("c", Freshness(bypass=True)), ("c", Freshness(max_age=-1.0))):
        with pytest.raises(TierFailed):
            await products.get(id, wanted)
    # Nothing older than what this sidecar wrote itself.
    await products.committed("c", 3, b"newer")
    await l2.drop("product", ["c"])
    await l2.change("product", {"c": Record(1, clock.now(), b"old")}, ttl=600)
    with pytest.raises(TierFailed):
        await products.get("c")
    await products.close()
