"""PostgreSQL accepts connections and answers nothing."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, SESSION, WARM
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    ground.store.stall()


async def _end(ground: Ground) -> None:
    await ground.store.heal()


OUTAGE = Outage("PostgreSQL hung", _begin, _end, refuses=(CART, SESSION))


async def test_cached_reads_go_on(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    assert not load.phases["during"][WARM].codes
    assert not load.phases["healing"][WARM].codes
