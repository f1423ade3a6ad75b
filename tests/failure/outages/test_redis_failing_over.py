"""kill -9 of a primary; its replica takes over while callers call, and it comes back as a replica with nothing."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    (await ground.shard())[0].kill()


async def _end(ground: Ground) -> None:
    assert ground.cluster is not None
    await ground.cluster.wait_ok()
    await ground.cluster.heal()


OUTAGE = Outage("Redis failing over", _begin, _end)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for phase in ("during", "healing"):
        for kind in KINDS:
            assert not load.phases[phase][kind].codes
