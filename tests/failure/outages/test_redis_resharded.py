"""Some slots migrate to another primary, and back."""

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.consistency.nemesis import move_slots
from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _pair(ground: Ground) -> tuple[ValkeyServer, ValkeyServer]:
    assert ground.cluster is not None
    first, second, *_ = await ground.cluster.primaries()
    return first, second


async def _begin(ground: Ground) -> None:
    giver, taker = await _pair(ground)
    await move_slots(giver, taker)


async def _end(ground: Ground) -> None:
    taker, giver = await _pair(ground)
    await move_slots(giver, taker)
    assert ground.cluster is not None
    await ground.cluster.wait_ok()


OUTAGE = Outage("Redis resharded", _begin, _end)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for phase in ("during", "healing"):
        for kind in KINDS:
            assert not load.phases[phase][kind].codes
