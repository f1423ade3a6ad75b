"""One shard refuses connections, its replica as well."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    for node in await ground.shard():
        ground.redis.in_front_of(node.address).cut()


async def _end(ground: Ground) -> None:
    await ground.redis.heal()


OUTAGE = Outage("one shard down", _begin, _end)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for kind in KINDS:
        assert not load.phases["during"][kind].codes
