"""The versions of lists in PostgreSQL: which changes of products affect which lists, whoever makes them."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg.errors import DeadlockDetected

from cache_sidecar.config.settings import ROLES
from cache_sidecar.services.product_list import lists_of_change
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.product import ProductRow
from tests.integration.test_own_tables import TABLE, UPDATABLE, VIEW
from tests.support.databases import run
from tests.support.until import DEADLINE, until

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def store(database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


async def insert(store: Connection, id: str, *categories: str, active: bool = True) -> None:
    await store.execute(
        """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code, categories, active)
           VALUES (%s, 'A mug', 1, 'EUR', %s, %s)""",
        [id, list(categories), active],
    )


async def changed(store: Connection) -> set[str]:
    """Returns the lists that got new versions since the last call, as the relay reads them."""
    await store.execute("SELECT cache_sidecar.sequence_changes()")
    cursor = await store.execute(
        """WITH gone AS (DELETE FROM cache_sidecar.outbox RETURNING *)
           SELECT id, version, position FROM gone WHERE dataset = 'product_list'"""
    )
    rows = await cursor.fetchall()
    cursor = await store.execute("SELECT list_id, version FROM cache_sidecar.product_lists")
    versions = dict(await cursor.fetchall())
    assert all(version == versions[id] and position for id, version, position in rows)
    assert len({id for id, *_ in rows}) == len(rows), "a list changes once, however many products do"
    return {id for id, *_ in rows}


CHANGES = [
    ("description = 'x', brand = 'x', image_uris = '{x}', attributes = '{\"a\": \"b\"}', update_time = now()", ""),
    ("title = title, price_units = price_units, categories = categories", ""),
    ("title = 'B'", "title: title:x title:y"),
    ("price_units = 2", "price: price:x price:y"),
    ("price_nanos = 1", "price: price:x price:y"),
    ("rank = 7", "rank: rank:x rank:y"),
    ("create_time = 'infinity'", "members: members:x members:y"),
    ("categories = '{y,x}'", ""),
    ("categories = '{x,y,z}'", "members:z categories:"),
    ("categories = '{x}', price_units = 3", "members:y categories: price: price:x"),
    ("active = false", "members: members:x members:y categories:"),
    ("categories = '{}'", "members:x members:y categories:"),
    ("product_id = 'q'", "members: members:x members:y categories:"),
]


@pytest.mark.parametrize(("change", "lists"), CHANGES, ids=[change for change, _ in CHANGES])
async def test_a_change_affects_the_lists_that_show_it_and_no_others(store: Connection, change: str, lists: str) -> None:
    await insert(store, "p", "x", "y")
    await insert(store, "other", "z")
    await changed(store)
    await store.execute(f"UPDATE cache_sidecar.products SET {change} WHERE product_id = 'p'")  # type: ignore[arg-type]
    assert await changed(store) == set(lists.split())
    assert await changed(store) == set()


async def test_products_enter_and_leave(store: Connection) -> None:
    await insert(store, "p", "x")
    assert await changed(store) == {"members:", "members:x", "categories:"}
    await insert(store, "off", "x", active=False)
    assert await changed(store) == set()
    await store.execute("UPDATE cache_sidecar.products SET price_units = 9 WHERE product_id = 'off'")
    assert await changed(store) == set()
    await store.execute("DELETE FROM cache_sidecar.products")
    assert await changed(store) == {"members:", "members:x", "categories:"}


async def test_a_move_there_and_back_is_no_change_of_a_list(store: Connection) -> None:
    """Nobody can have read a list in between: lists follow changes when these get their positions."""
    await insert(store, "p", "x")
    await changed(store)
    await store.execute("UPDATE cache_sidecar.products SET categories = '{y}'")
    await store.execute("UPDATE cache_sidecar.products SET categories = '{x}'")
    assert await changed(store) == set()


async def test_versions_follow_commits_though_products_commit_in_another_order(store: Connection, database: str) -> None:
    await insert(store, "p", "x")
    await insert(store, "q", "x")
    await changed(store)
    async with await psycopg.AsyncConnection.connect(database) as slow:
        await slow.execute("UPDATE cache_sidecar.products SET price_units = 2 WHERE product_id = 'p'")
        await store.execute("UPDATE cache_sidecar.products SET price_units = 3 WHERE product_id = 'q'")
        assert await changed(store) == {"price:", "price:x"}
        first = await _version(store)
        await slow.commit()
    assert await changed(store) == {"price:", "price:x"}
    assert await _version(store) > first, "although the product's own version is lower"


async def _version(store: Connection) -> int:
    cursor = await store.execute("SELECT version FROM cache_sidecar.product_lists WHERE list_id = 'price:x'")
    (version,) = await cursor.fetchone() or (0,)
    return int(version)


async def test_programs_that_change_products_of_one_list_do_not_wait_for_each_other(store: Connection, database: str) -> None:
    for id in "pq":
        await insert(store, id, "x", "y")
    await changed(store)
    try:
        async with (
            await psycopg.AsyncConnection.connect(database) as one,
            await psycopg.AsyncConnection.connect(database) as other,
        ):
            for connection, id in ((one, "p"), (other, "q")):
                await connection.execute("SET LOCAL lock_timeout = '5s'")
                await connection.execute("UPDATE cache_sidecar.products SET active = false WHERE product_id = %s", [id])
            await changed(store)
    except DeadlockDetected:
        pytest.fail("a list must not be locked by those who change products")


async def test_an_import_does_not_flood_the_outbox(store: Connection) -> None:
    for round in range(2):
        await store.execute(
            f"""INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code, categories)
                SELECT 'p' || n, 'a mug', {round + 1}, 'EUR', ARRAY['c' || n %% 20] FROM generate_series(1, %s) AS n
                ON CONFLICT (product_id) DO UPDATE SET price_units = excluded.price_units""",
            [5000],
        )
        cursor = await store.execute("SELECT max(version) FROM cache_sidecar.outbox WHERE dataset = 'product_list'")
        (before,) = await cursor.fetchone() or (0,)
        for _ in range(4):
            await store.execute("SELECT cache_sidecar.sequence_changes()")
        cursor = await store.execute(
            "SELECT id FROM cache_sidecar.outbox WHERE dataset = 'product_list' AND version > %s", [before or 0]
        )
        ids = [id for (id,) in await cursor.fetchall()]
        lists = {f"{('members', 'price')[round]}:{name}" for name in ("", *(f"c{n}" for n in range(20)))}
        assert set(ids) - {"categories:"} == lists
        assert len(ids) <= 3 * 22, "one change of a list for each 2,000 rows"


def _chance(chance: random.Random) -> dict[str, Any]:
    return {
        "title": chance.choice("AB"),
        "price_units": chance.randrange(2),
        "price_nanos": chance.randrange(2),
        "categories": chance.sample("xyz", chance.randrange(4)),
        "brand": chance.choice("AB"),
        "active": chance.random() < 0.7,
        "rank": chance.choice([None, 0.0, 1.0]),
    }


async def test_a_sidecar_publishes_all_lists_that_its_own_change_affects(store: Connection) -> None:
    chance = random.Random("lists")
    old: ProductRow | None = None
    for _ in range(200):
        new = None if old is not None and chance.random() < 0.2 else _row(_chance(chance))
        await store.execute("DELETE FROM cache_sidecar.products")
        if new is not None:
            await store.execute(
                """INSERT INTO cache_sidecar.products (title, price_units, price_nanos, categories, brand, active, rank, product_id,
                       currency_code, create_time) VALUES (%s, %s, %s, %s, %s, %s, %s, 'p', 'EUR', '2026-01-01')""",
                [new.title, new.price_units, new.price_nanos, new.categories, new.brand, new.active, new.rank],
            )
        assert set(lists_of_change(old, new)) == await changed(store)
        old = new


def _row(fields: dict[str, Any]) -> ProductRow:
    return ProductRow("p", description="", currency_code="EUR", image_uris=(), attributes={}, **fields)


async def test_a_replaced_table_is_listed_anew(store: Connection, database: str) -> None:
    await insert(store, "p", "x")
    await changed(store)
    await run(database, TABLE)
    await run(database, VIEW)
    assert await _entries(store) == ["p"], "so far nothing has changed, and nobody has migrated"
    await store.execute("UPDATE shop.articles SET cents = 1 WHERE sku = 'mug-1'")
    assert await changed(store) == {"members:", "members:x", "categories:"}
    assert await _entries(store) == ["mug-1", "mug-2"]
    await store.execute("UPDATE shop.articles SET name = 'The mug' WHERE sku = 'mug-1'")
    assert await changed(store) == {"title:"}
    await store.execute("UPDATE shop.articles SET on_sale = false WHERE sku = 'mug-1'")
    assert await changed(store) == {"members:"}


async def test_migrate_lists_what_a_truncate_took(store: Connection, database: str) -> None:
    await run(database, UPDATABLE)
    await store.execute(
        """INSERT INTO public.goods (product_id, title, description, price_units, price_nanos, currency_code, categories, brand,
               image_uris, attributes, active) VALUES ('p', 'A mug', '', 1, 0, 'EUR', '{x}', '', '{}', '{}', true)"""
    )
    assert await changed(store) == {"members:", "members:x", "categories:"}
    await store.execute("TRUNCATE public.goods")
    await migrate(database, *ROLES)
    assert await changed(store) == {"members:", "members:x", "categories:"}
    assert await _entries(store) == []


async def _entries(store: Connection) -> Sequence[str]:
    cursor = await store.execute("SELECT product_id FROM cache_sidecar.product_entries ORDER BY product_id")
    return [id for (id,) in await cursor.fetchall()]


async def test_a_view_that_fails_costs_lists_alone(store: Connection, database: str) -> None:
    await insert(store, "p", "x")
    await changed(store)
    await store.execute("ALTER TABLE cache_sidecar.products RENAME TO goods")
    view = "CREATE OR REPLACE VIEW cache_sidecar.products AS SELECT {} FROM cache_sidecar.goods"
    columns = "product_id, title, price_units / {} AS price_units, price_nanos, categories, active, create_time, version"
    await store.execute(view.format(columns.format(0)))  # type: ignore[arg-type]
    await store.execute("UPDATE cache_sidecar.goods SET title = 'B'")
    cursor = await store.execute("SELECT cache_sidecar.sequence_changes()")
    assert await cursor.fetchone() == (1,), "changes of products are published all the same"
    cursor = await store.execute("SELECT failure FROM cache_sidecar.product_list_state")
    assert await cursor.fetchone() == ("division by zero",)
    await store.execute(view.format(columns.format(1)))  # type: ignore[arg-type]
    await until(lambda: _is_changed(store, "title:x"))
    assert await _failure(store) == ""


async def _is_changed(store: Connection, list_id: str) -> bool:
    return list_id in await changed(store)


async def _failure(store: Connection) -> str:
    cursor = await store.execute("SELECT failure FROM cache_sidecar.product_list_state")
    (failure,) = await cursor.fetchone() or ("",)
    return str(failure)


async def test_who_locks_all_products_holds_up_no_other_change(store: Connection, database: str) -> None:
    """Afterwards, no more is compared than what changed meanwhile: a great catalogue would have to be migrated."""
    await insert(store, "p", "x")
    await changed(store)
    await insert(store, "unheard", "y")
    await store.execute("DELETE FROM cache_sidecar.outbox WHERE id = 'unheard'")
    await store.execute("UPDATE cache_sidecar.products SET title = 'B' WHERE product_id = 'p'")
    await store.execute("INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('p', 1)")
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute("LOCK TABLE cache_sidecar.products IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(DEADLINE):
            cursor = await store.execute("SELECT cache_sidecar.sequence_changes()")
        assert await cursor.fetchone() == (2,)
        assert await _failure(store) == "canceling statement due to lock timeout"
    cursor = await store.execute("SHOW lock_timeout")
    assert await cursor.fetchone() == ("0",)
    await until(lambda: _is_changed(store, "title:x"))
    assert await _failure(store) == ""
    assert await _entries(store) == ["p"]


async def test_a_view_that_takes_too_long_holds_up_no_other_change_for_ever(store: Connection, database: str) -> None:
    await insert(store, "p", "x")
    await changed(store)
    await store.execute("ALTER TABLE cache_sidecar.products RENAME TO goods")
    await store.execute(
        "CREATE VIEW cache_sidecar.products AS SELECT * FROM cache_sidecar.goods WHERE pg_sleep(3600) IS NOT NULL"
    )
    await store.execute("UPDATE cache_sidecar.goods SET title = 'B'")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as sidecar:
        sequencing = asyncio.create_task(sidecar.execute("SELECT cache_sidecar.sequence_changes()"))

        async def is_reading() -> bool:
            cursor = await store.execute(
                "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'", [sidecar.info.backend_pid]
            )
            return bool(cursor.rowcount)

        await until(is_reading)
        await asyncio.sleep(1.1)  # longer than what may have been a wait for its turn
        sidecar.cancel()
        cursor = await sequencing
        assert await cursor.fetchone() == (1,), "it has its position"
    assert await _failure(store) == "canceling statement due to user request"


async def test_products_can_be_read_while_migrate_compares_all(store: Connection, database: str) -> None:
    """A migration locks the table to add a column; with a great catalogue, the comparison takes minutes."""
    await insert(store, "p", "x")
    await store.execute("DELETE FROM cache_sidecar.migrations WHERE name = '0011_product_lists'")
    for name in ("product_entries", "product_lists", "product_list_state"):
        await store.execute(f"DROP TABLE cache_sidecar.{name}")  # type: ignore[arg-type]
    for name in ("products_definition()", "list_products(text[])", "follow_products(text[], bigint)", "list_all_products()"):
        await store.execute(f"DROP FUNCTION cache_sidecar.{name}")  # type: ignore[arg-type]
    await store.execute("ALTER TABLE cache_sidecar.products DROP COLUMN rank")
    async with await psycopg.AsyncConnection.connect(database) as busy:
        # Holds up the comparison, as one of many rows does.
        await busy.execute("SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.sequence_changes'))")
        migrating = asyncio.create_task(migrate(database, *ROLES))

        async def is_comparing() -> bool:
            cursor = await store.execute(
                "SELECT FROM pg_stat_activity WHERE query LIKE '%list_all_products()' AND wait_event = 'advisory'"
            )
            return bool(cursor.rowcount)

        await until(is_comparing)
        await store.execute("SET lock_timeout = '10s'")
        cursor = await store.execute("SELECT count(*) FROM cache_sidecar.products")
        assert await cursor.fetchone() == (1,)
    assert await migrating == ["0011_product_lists"]
    assert await _entries(store) == ["p"]
