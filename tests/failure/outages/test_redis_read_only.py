"""A failover behind the address of a single Redis: whoever is connected talks to a replica now, which says READONLY."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    primary, replica = ground.nodes
    async with replica.client() as client:
        await client.replicaof("NO", "ONE")
    async with primary.client() as client:
        await client.replicaof("127.0.0.1", replica.port)


async def _end(ground: Ground) -> None:
    primary, replica = ground.nodes
    async with primary.client() as client:
        await client.replicaof("NO", "ONE")
    async with replica.client() as client:
        await client.replicaof("127.0.0.1", primary.port)


OUTAGE = Outage("Redis READONLY", _begin, _end)


async def test_nobody_notices(on_single: Trial) -> None:
    load = await on_single.of(OUTAGE)
    for kind in KINDS:
        assert not load.phases["during"][kind].codes
