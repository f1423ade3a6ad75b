"""Neither Redis nor PostgreSQL accepts connections: memory answers as long as it may, the rest is refused."""

import math

from cache_sidecar.config import policy
from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, KINDS, SESSION, WARM
from tests.failure.outages.trial import Trial
from tests.support.until import until


async def _begin(ground: Ground) -> None:
    # On a busy machine, the sidecar may have heard nothing for a while, and what is in memory is stale already.
    await until(ground.is_fresh)
    ground.redis.cut()
    ground.store.cut()
    await until(ground.is_refused)
    await until(lambda: _is_said(ground))


async def _is_said(ground: Ground) -> bool:
    return {"redis", "invalidations", "postgresql"} <= await ground.degraded()


async def _end(ground: Ground) -> None:
    await ground.store.heal()
    await ground.redis.heal()


OUTAGE = Outage("both down", _begin, _end, refuses=KINDS)


async def test_memory_serves_products_up_to_the_stale_limit(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    during = load.phases["during"]
    # Both are cut after the phase began, so from memory no product is refused before that much of it is over.
    assert policy.default()["product"].stale_limit < during[WARM].first_failure < math.inf
    assert during[CART].codes
    assert during[SESSION].codes
