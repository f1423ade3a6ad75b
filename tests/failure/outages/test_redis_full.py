"""Redis has no memory left, and may evict nothing."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    await ground.each_node("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await ground.each_node("CONFIG", "SET", "maxmemory", "1")


async def _end(ground: Ground) -> None:
    await ground.each_node("CONFIG", "SET", "maxmemory", "0")


OUTAGE = Outage("Redis out of memory", _begin, _end)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for kind in KINDS:
        assert not load.phases["during"][kind].codes
