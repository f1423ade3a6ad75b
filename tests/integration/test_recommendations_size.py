"""How much room the rows of a large shop take."""

import random

import pytest

from cache_sidecar.recommendations.rows import NEIGHBOURS
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.recommendation import ModelStore, Row, as_stored
from tests.support.databases import run
from tests.support.learning import START

PRODUCTS = 100_000
PAGE = 1000
LIMIT = 200_000_000


@pytest.mark.timeout(600)
async def test_the_rows_of_100_000_products_take_less_than_200_mb(database: str) -> None:
    """Every row is full, which those of a real shop are not."""
    await migrate(database, "analytics")
    chance = random.Random(1)
    ids = [f"SKU-{number:06}" for number in range(PRODUCTS)]
    shuffled = ids * 2
    chance.shuffle(shuffled)
    async with ModelStore.open(database) as store:
        for start in range(0, PRODUCTS, PAGE):
            rows = []
            for number in range(start, start + PAGE):
                weights = as_stored(sorted((chance.random() for _ in range(NEIGHBOURS)), reverse=True))
                together, also = (shuffled[first : first + NEIGHBOURS] for first in (number, number + NEIGHBOURS))
                rows.append(Row(ids[number], together, weights, also, weights[::-1], START))
            await store.publish([], rows)
    ((count, size),) = await run(
        database,
        "SELECT count(*), pg_total_relation_size('cache_sidecar.recommendation_rows') FROM cache_sidecar.recommendation_rows",
    )
    assert count == PRODUCTS
    assert size < LIMIT, f"{size / 1e6:.0f} MB"
