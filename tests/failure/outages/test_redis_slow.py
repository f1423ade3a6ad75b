"""Redis answers, but later than a command may take."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    ground.redis.delay(0.3)


async def _end(ground: Ground) -> None:
    await ground.redis.heal()


OUTAGE = Outage("Redis slow", _begin, _end)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for kind in KINDS:
        assert not load.phases["during"][kind].codes
