"""The primary is gone for good; another server, elsewhere, answers under its name."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial
from tests.support.until import until


async def _begin(ground: Ground) -> None:
    primary, replica = ground.nodes
    name = ground.redis.in_front_of(primary.address)
    primary.kill()
    async with replica.client() as client:
        await client.replicaof("NO", "ONE")
    await name.turn_to(replica.address)


async def _end(ground: Ground) -> None:
    primary, replica = ground.nodes
    await primary.start()
    async with primary.client() as client:
        await client.replicaof("127.0.0.1", replica.port)

        async def is_in_step() -> bool:
            return bool((await client.info("replication"))["master_link_status"] == "up")

        await until(is_in_step)
    # From now on this one is the primary.
    ground.nodes.reverse()


OUTAGE = Outage("Redis replaced", _begin, _end)


async def test_nobody_notices(on_single: Trial) -> None:
    load = await on_single.of(OUTAGE)
    for phase in ("during", "healing"):
        for kind in KINDS:
            assert not load.phases[phase][kind].codes
