"""The demo catalogue in a real PostgreSQL."""

import asyncio
from typing import Any

import psycopg
import pytest

from cache_sidecar.devstack import catalogue


def query(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


def quiet(made: int) -> None:
    pass


async def test_a_database_is_filled_once(database: str) -> None:
    told: list[int] = []
    assert await catalogue.fill(database, count=12_000, progress=told.append) == 12_000
    assert told == [5000, 10_000, 12_000]
    rows = query(database, "SELECT * FROM cache_sidecar.products ORDER BY product_id LIMIT 3")
    assert [row[:11] for row in rows] == [tuple(product) for product in catalogue.products(3)]
    before = query(database, "SELECT * FROM cache_sidecar.products ORDER BY 1")
    assert await catalogue.fill(database, count=12_000, progress=told.append) == 0
    assert await catalogue.fill(database, count=10, progress=told.append) == 0
    assert query(database, "SELECT * FROM cache_sidecar.products ORDER BY 1") == before


async def test_versions_are_drawn_and_nobody_is_told(database: str) -> None:
    await catalogue.fill(database, count=100, progress=quiet)
    ((different, first, last),) = query(
        database, "SELECT count(DISTINCT version), min(version), max(version) FROM cache_sidecar.products"
    )
    assert (different, last - first) == (100, 99)
    assert first > 1, "1 is nobody's"
    ((drawn,),) = query(database, "SELECT last_value FROM cache_sidecar.version_seq")
    assert query(database, "SELECT DISTINCT dataset FROM cache_sidecar.outbox") == [("product_list",)]
    query(database, "UPDATE cache_sidecar.products SET title = 'New' WHERE product_id = 'SKU-000001'")
    changes = query(database, "SELECT version, id FROM cache_sidecar.outbox WHERE dataset = 'product'")
    assert changes == [(drawn + 1, "SKU-000001")]


async def test_lists_have_the_products(database: str) -> None:
    await catalogue.fill(database, count=100, progress=quiet)
    assert query(
        database, "SELECT count(*) FROM cache_sidecar.product_entries JOIN cache_sidecar.products USING (product_id)"
    ) == query(database, "SELECT count(*) FROM cache_sidecar.products WHERE active")


async def test_a_larger_catalogue_adds_to_the_smaller_one(database: str) -> None:
    await catalogue.fill(database, count=50, progress=quiet)
    query(database, "UPDATE cache_sidecar.products SET title = 'Mine' WHERE product_id = 'SKU-000001'")
    query(database, "DELETE FROM cache_sidecar.products WHERE product_id = 'SKU-000002'")
    assert await catalogue.fill(database, count=80, progress=quiet) == 30
    ids = query(database, "SELECT product_id FROM cache_sidecar.products ORDER BY 1")
    assert ids == [(f"SKU-{number:06}",) for number in range(1, 81) if number != 2]
    assert query(database, "SELECT title FROM cache_sidecar.products WHERE product_id = 'SKU-000001'") == [("Mine",)]


async def test_a_users_product_with_the_id_of_a_demo_product_stays(database: str) -> None:
    query(
        database,
        """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
           VALUES ('SKU-000003', 'Mine', 1, 'EUR')""",
    )
    assert await catalogue.fill(database, count=5, progress=quiet) == 4
    assert query(database, "SELECT title FROM cache_sidecar.products WHERE product_id = 'SKU-000003'") == [("Mine",)]


async def test_a_fill_that_is_stopped_leaves_nothing_and_the_next_one_starts_over(database: str) -> None:
    class Stopped(Exception):
        pass

    def stop(made: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        await catalogue.fill(database, count=6000, progress=stop)
    assert query(database, "SELECT count(*) FROM cache_sidecar.products") == [(0,)]
    assert await catalogue.fill(database, count=6000, progress=quiet) == 6000


async def test_two_fills_at_once_fill_once(database: str) -> None:
    added = await asyncio.gather(*(catalogue.fill(database, count=500, progress=quiet) for _ in range(2)))
    assert sorted(added) == [0, 500]
    assert query(database, "SELECT count(*) FROM cache_sidecar.products") == [(500,)]
