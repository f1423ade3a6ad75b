"""Neither Redis nor PostgreSQL accepts connections: memory answers as long as it may, the rest is refused."""

from tests.failure.outages.conftest import Trial
from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, SESSION
from tests.sidecars import until


async def _begin(ground: Ground) -> None:
    ground.redis.cut()
    ground.store.cut()
    await until(ground.is_refused)
    await until(lambda: _is_said(ground))


async def _is_said(ground: Ground) -> bool:
    return {"redis", "invalidations", "postgresql"} <= await ground.degraded()


async def _end(ground: Ground) -> None:
    await ground.store.heal()
    await ground.redis.heal()


OUTAGE = Outage("both down", _begin, _end)


async def test_nothing_that_was_acknowledged_is_lost(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    during = load.phases["during"]
    assert during[CART].codes
    assert during[SESSION].codes
