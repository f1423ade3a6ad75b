"""Redis after an outage: its values are out of date, and are not read before the relay says that they no longer are."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.tiers.coherence import region as region_module
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.quarantine import MARKS, Quarantine, QuarantinedL2
from cache_sidecar.tiers.coherence.region import Region
from cache_sidecar.tiers.memory.clock import NO_L1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import PARTITIONS, Freshness, Record, Row, Source, Times, Watermark, partition_of
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.node import Address, Command, RedisNode
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.guard import Guard
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.dataset_case import POLICY, say
from tests.support.gates import Gate
from tests.support.until import until

HISTORY = "0123456789abcdef" * 3
OLD, NEW = Record(1, 0.0, b"old"), Record(2, 0.0, b"new")


def fenced(l2: RedisL2, clock: ManualClock) -> tuple[QuarantinedL2, Quarantine]:
    """Returns a fenced L2 whose partitions are heard, from whoever holds them, and in no doubt."""
    shards, names = inside.connection_of(l2).cluster, inside.names_of(l2)

    def holder(partition: int) -> Address | None:
        return shards.holder(names.slot(partition))

    quarantine = Quarantine(freshness_lease=FreshnessLease(), holder=holder, clock=clock)
    hear(quarantine, holder)
    for partition in range(PARTITIONS):
        for number in range(MARKS):
            quarantine.on_watermark(partition, Watermark(0.0, "relay", number))
    return QuarantinedL2(inside.connection_of(l2), names, quarantine), quarantine


def hear(quarantine: Quarantine, holder: Callable[[int], Address | None]) -> None:
    for partition in range(PARTITIONS):
        if address := holder(partition):
            quarantine.on_feed_trusted([partition], address, HISTORY)


async def test_what_a_primary_held_before_an_outage_is_not_read_until_the_relay_told_it_the_rest(l2: RedisL2) -> None:
    clock = ManualClock()
    await l2.put_if_newer("product", {"a": OLD}, ttl=60)
    found, quarantine = fenced(l2, clock)
    watermarks = RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))
    region = Region(watermarks, {"catalog": []}, quarantines={"catalog": quarantine}, clock=clock, dependencies=Dependencies())
    assert (await found.read_leased("product", ["a"])).records == {"a": OLD}
    await say(watermarks, ["catalog"], clock.now(), times=3)
    quarantine.on_feed_lost(range(PARTITIONS))
    hear(quarantine, inside.holder_of(quarantine))
    for _ in range(2):
        await region.step()
        # No record, and no lease: nobody is to wait for the one who reads it from PostgreSQL.
        assert await found.read_leased("product", ["a", "b"]) == ({}, {}, ())
        assert await found.touch("product", ["a"], Times(0.0, 0.0, 0.0, 1.0)) == ({}, {}, ())
        await say(watermarks, ["catalog"], clock.now())
    # What was read there is filled in, over what is older.
    await found.fill("product", {"a": NEW}, {}, ttl=60)
    await region.step()
    assert (await found.read_leased("product", ["a"])).records == {"a": NEW}


async def test_marks_that_end_a_doubt_are_looked_for_sooner(l2: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_module, "EVERY", 3600.0)
    clock = ManualClock()
    _, quarantine = fenced(l2, clock)
    watermarks = RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))
    region = Region(watermarks, {"catalog": []}, quarantines={"catalog": quarantine}, clock=clock, dependencies=Dependencies())
    quarantine.on_feed_lost(range(PARTITIONS))
    hear(quarantine, inside.holder_of(quarantine))
    looking = asyncio.create_task(region.run())

    async def has_ended() -> bool:
        await say(watermarks, ["catalog"], clock.now())
        return not quarantine.is_ending

    await until(has_ended)
    await cancel_and_wait(looking)


@pytest.mark.parametrize("function", ["read", "slide"])
async def test_what_is_answered_after_the_footing_was_lost_does_not_count(l2: RedisL2, function: str) -> None:
    """The reply is held by the primary's not reading on: it answers when it wakes up."""
    await l2.put_if_newer("product", {"a": OLD}, ttl=60)
    found, quarantine = fenced(l2, ManualClock())
    exchange, gate = RedisNode.exchange, Gate()

    async def held(shard: RedisNode, commands: Sequence[Command], **how: Any) -> list[Any]:
        replies = await exchange(shard, commands, **how)
        await gate.passed()
        return replies

    gate.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisNode, "exchange", held)
        times = Times(0.0, 0.0, 0.0, 1.0)
        work = found.read_leased("product", ["a", "b"]) if function == "read" else found.touch("product", ["a", "b"], times)
        reading = asyncio.ensure_future(work)
        await gate.reached()
        quarantine.on_feed_lost([partition_of("a")])
        gate.open()
        answer = await reading
    assert answer.records == {}
    assert set(answer.leases) == {"b"}, "in another partition"


async def test_what_is_in_doubt_is_answered_marked_stale_when_postgresql_cannot_tell(l2: RedisL2) -> None:
    clock, is_there = ManualClock(), True
    guard = Guard(Tier.L2, timeout=10, max_running=4, max_waiting=4)

    async def load(ids: Sequence[str]) -> Mapping[str, Row]:
        if not is_there:
            raise TierFailed(Tier.STORE, Failure.UNREACHABLE)
        return {id: Row(2, b"new") for id in ids}

    found, quarantine = fenced(l2, clock)
    products = Dataset(Tiers(name="product", l1=NO_L1, l2=found, load=load, l2_guard=guard, policy=lambda: POLICY, clock=clock))
    await l2.put_if_newer("product", {id: Record(1, clock.now(), b"old") for id in "abc"}, ttl=600)
    await l2.put_if_newer("product", {"b": Record(2, clock.now(), None)}, ttl=600)
    quarantine.on_feed_lost(range(PARTITIONS))
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
    await products.publish({"c": products.record(3, b"newer")})
    await l2.drop("product", ["c"])
    await l2.put_if_newer("product", {"c": Record(1, clock.now(), b"old")}, ttl=600)
    with pytest.raises(TierFailed):
        await products.get("c")
    await products.close()
