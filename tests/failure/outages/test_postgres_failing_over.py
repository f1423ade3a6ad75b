"""PostgreSQL fails over to its standby, which is the second host of the DSN."""

import psycopg

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import CART, SESSION, WARM
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    # In good order: what was acknowledged is sent to the standby first.
    await ground.postgres.stop()


async def _end(ground: Ground) -> None:
    assert ground.standby is not None
    async with await psycopg.AsyncConnection.connect(ground.standby.dsn(), autocommit=True) as connection:
        await connection.execute("SELECT pg_promote()")


OUTAGE = Outage("PostgreSQL failing over", _begin, _end, refuses=(CART, SESSION))


async def test_cached_reads_go_on(on_single: Trial) -> None:
    load = await on_single.of(OUTAGE)
    for phase in ("during", "healing"):
        assert not load.phases[phase][WARM].codes
