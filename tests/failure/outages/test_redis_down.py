"""All of Redis refuses connections."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial

# Seconds in which memory stops answering, as it can no longer be known what changed: then PostgreSQL does.
LONGER_THAN_STALE = 3.0


async def _begin(ground: Ground) -> None:
    ground.redis.cut()


async def _end(ground: Ground) -> None:
    await ground.redis.heal()


OUTAGE = Outage("Redis down", _begin, _end, at_least=LONGER_THAN_STALE)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for kind in KINDS:
        assert not load.phases["during"][kind].codes
