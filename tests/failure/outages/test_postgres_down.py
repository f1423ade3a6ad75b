"""PostgreSQL refuses connections, and drops those it had."""

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, SESSION, WARM
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    ground.store.cut()


async def _end(ground: Ground) -> None:
    await ground.store.heal()


OUTAGE = Outage("PostgreSQL down", _begin, _end, refuses=(CART, SESSION))


async def test_cached_reads_go_on_and_writes_are_refused(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    during = load.phases["during"]
    assert not during[WARM].codes
    assert during[CART].codes
    assert during[SESSION].codes
