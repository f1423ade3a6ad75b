"""kill -9 of PostgreSQL in the middle of transactions, and its recovery."""

import asyncio

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, SESSION, WARM
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    await asyncio.to_thread(ground.postgres.kill)


async def _end(ground: Ground) -> None:
    await ground.postgres.start()


OUTAGE = Outage("PostgreSQL killed", _begin, _end, refuses=(CART, SESSION))


async def test_cached_reads_go_on(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for phase in ("during", "healing"):
        assert not load.phases[phase][WARM].codes
