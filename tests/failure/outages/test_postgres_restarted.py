"""PostgreSQL is stopped in good order and started again; the pool comes back with no more connections than it may have."""

import psycopg

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, SESSION, WARM
from tests.failure.outages.trial import Trial

POOL = 8


async def _begin(ground: Ground) -> None:
    await ground.postgres.stop()


async def _end(ground: Ground) -> None:
    await ground.postgres.start()


OUTAGE = Outage("PostgreSQL restarted", _begin, _end, refuses=(CART, SESSION))


async def test_cached_reads_go_on_and_there_is_no_storm(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for phase in ("during", "healing"):
        assert not load.phases[phase][WARM].codes
    async with await psycopg.AsyncConnection.connect(on_cluster.ground.postgres.dsn()) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cache_sidecar'"
        (connections,) = await (await connection.execute(query)).fetchone() or (0,)
    # The sidecar's pool and the relay's.
    assert 0 < connections <= 2 * POOL
