"""Redis after an outage: its values are out of date, and are not read before the relay says that they no longer are."""

from cache_sidecar.clock import ManualClock
from cache_sidecar.tiers.fence import CLOCKS, Fence, FencedL2
from cache_sidecar.tiers.l2 import RedisL2
from cache_sidecar.tiers.ports import PARTITIONS, Record
from cache_sidecar.tiers.region import Region
from cache_sidecar.tiers.signs import RedisSigns

OLD, NEW = Record(1, 0.0, b"old"), Record(2, 0.0, b"new")


async def test_what_a_primary_held_before_an_outage_is_not_read_until_the_relay_told_it_the_rest(l2: RedisL2) -> None:
    clock = ManualClock()
    fence = Fence(longest=lambda: 10.0, clock=clock)
    fenced = FencedL2(l2._connection, l2._names, fence)
    signs = RedisSigns(l2._connection, l2._names)
    region = Region(signs, {"catalog": []}, fences={"catalog": fence}, clock=clock)
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
