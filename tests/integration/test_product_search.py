"""The documents that searches read: how they follow the products, in any table and language, and what finds them."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.errors import InputError, InvalidRequest, TierFailed
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay import process as relay
from cache_sidecar.relay.product_search import ProductIndex
from cache_sidecar.services import product_search
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.product_search import ProductSearchStore, Search, Words, statement
from cache_sidecar.store.rights import grants
from cache_sidecar.tiers.ports import Load
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.integration.test_own_tables import TABLE, UPDATABLE, VIEW
from tests.support.databases import RELAY, SIDECAR, as_role, open_database, run
from tests.support.launch import settings_for
from tests.support.until import until

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def program(database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def store(database: str) -> AsyncIterator[ProductSearchStore]:
    async with open_database(as_role(RELAY, database)) as opened:
        yield ProductSearchStore(opened)


async def insert(program: Connection, id: str, title: str, **columns: Any) -> None:
    names = ["product_id", "title", "price_units", "currency_code", *columns]
    values = [id, title, 1, "EUR", *columns.values()]
    await program.execute(
        f"INSERT INTO cache_sidecar.products ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})",  # type: ignore[arg-type]
        values,
    )


async def index(program: Connection, store: ProductSearchStore, *, at_once: int = 200) -> int:
    """Does what relays do, and returns how many products that took."""
    await program.execute("SELECT cache_sidecar.sequence_changes()")
    done = 0
    while now := await store.index(at_once):
        done += now
    return done


def words(text: str) -> Search:
    return Search(Words("", text, ""), [], [], "", None, None, [], [])


async def found(database: str, text: str) -> list[str]:
    """Returns the ids that a sidecar finds."""
    async with open_database(as_role(SIDECAR, database)) as opened:
        return [id for id, _ in (await ProductSearchStore(opened).find(words(text))).products]


async def test_the_relay_indexes_what_anybody_changes(
    database: str, program: Connection, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    settings = settings_for(",".join(valkey_cluster.addresses), as_role(RELAY, database), namespace)
    stopping = asyncio.Event()
    relaying = asyncio.create_task(relay.run(settings, stopping))

    async def is_found(text: str, ids: list[str]) -> bool:
        try:
            return await found(database, text) == ids
        except TierFailed:  # until it has looked for the first time
            return False

    try:
        await insert(program, "p", "A red mug")
        await until(lambda: is_found("mug", ["p"]))
        await program.execute("UPDATE cache_sidecar.products SET title = 'A red cup'")
        await until(lambda: is_found("cup", ["p"]))
        await program.execute("DELETE FROM cache_sidecar.products")
        await until(lambda: is_found("cup", []))
    finally:
        stopping.set()
        await relaying


async def test_only_what_changed_is_indexed_again(program: Connection, store: ProductSearchStore, database: str) -> None:
    for n in range(25):
        await insert(program, f"p{n:02}", "A mug")
    assert await index(program, store, at_once=7) >= 25
    assert await index(program, store) == 0
    await program.execute("UPDATE cache_sidecar.products SET title = 'A rug' WHERE product_id >= 'p20'")
    await program.execute("UPDATE cache_sidecar.products SET active = false WHERE product_id = 'p03'")
    assert await index(program, store, at_once=2) == 6
    assert await found(database, "rug") == [f"p{n}" for n in range(20, 25)]
    assert "p03" not in await found(database, "mug")


async def test_one_relay_at_a_time_indexes(program: Connection, store: ProductSearchStore, database: str) -> None:
    await insert(program, "p", "A mug")
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute("SELECT cache_sidecar.index_products(1)")
        assert await index(program, store) == 0
    assert await index(program, store) == 0, "the other one did it"
    assert await found(database, "mug") == ["p"]


async def test_a_failure_has_fewer_products_taken_at_once(
    program: Connection, store: ProductSearchStore, database: str
) -> None:
    await insert(program, "p", "A mug")
    products = ProductIndex(store)
    await run(database, f"REVOKE EXECUTE ON FUNCTION cache_sidecar.index_products(integer) FROM {RELAY}")
    for at_once in (50, 12, 3, 1, 1):
        with pytest.raises(TierFailed):
            await products.step()
        assert products.at_once == at_once
    await run(database, f"GRANT EXECUTE ON FUNCTION cache_sidecar.index_products(integer) TO {RELAY}")
    await products.step()
    assert products.at_once > 1


async def test_changes_that_are_not_kept_any_more_have_all_products_compared(
    program: Connection, store: ProductSearchStore, database: str
) -> None:
    for id in ("a", "b"):
        await insert(program, id, "A mug")
    await index(program, store)
    await insert(program, "c", "A mug")
    await program.execute("SELECT cache_sidecar.sequence_changes()")
    await program.execute("DELETE FROM cache_sidecar.outbox")
    await insert(program, "d", "A mug")
    await index(program, store)
    assert await found(database, "mug") == ["a", "b", "c", "d"]


async def test_migrate_has_all_products_compared(program: Connection, store: ProductSearchStore, database: str) -> None:
    for id in ("a", "b"):
        await insert(program, id, "A mug")
    await index(program, store)
    await program.execute("TRUNCATE cache_sidecar.products")
    await index(program, store)
    assert await found(database, "mug") == ["a", "b"], "no trigger says that"
    await migrate(database, *ROLES)
    assert await found(database, "mug") == ["a", "b"], "until they have been compared"
    await index(program, store, at_once=1)
    assert await found(database, "mug") == []


async def test_the_language_is_a_setting_of_migrate(program: Connection, store: ProductSearchStore, database: str) -> None:
    await insert(program, "p", "Die Häuser", description="Running")
    await index(program, store)
    assert (await found(database, "run"), await found(database, "haus")) == (["p"], [])
    await migrate(database, *ROLES, language="german")
    with pytest.raises(TierFailed, match="products are being indexed"):
        await found(database, "haus")
    await index(program, store)
    assert (await found(database, "run"), await found(database, "haus")) == ([], ["p"])
    await program.execute("CREATE TEXT SEARCH CONFIGURATION public.ours (COPY = english)")
    await migrate(database, *ROLES, language="public.ours")
    await index(program, store)
    assert await found(database, "run") == ["p"]
    with pytest.raises(InputError, match=r"search_language: .* has no text search configuration 'klingon'"):
        await migrate(database, *ROLES, language="klingon")
    assert await found(database, "run") == ["p"]


def test_a_language_that_cannot_be_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="search_language"):
        settings_for("a:1", "postgresql://a", "cs", search_language="english'; --")


@pytest.mark.parametrize("statements", [(UPDATABLE,), (TABLE, VIEW)], ids=["updatable", "example"])
async def test_a_shop_s_own_tables_are_searched_through_their_view(
    program: Connection, store: ProductSearchStore, database: str, statements: tuple[str, ...]
) -> None:
    await insert(program, "p", "A mug")
    await index(program, store)
    for one in statements:
        await run(database, one)
    await migrate(database, *ROLES, grants=grants(sidecar=SIDECAR, relay=RELAY))
    await index(program, store)
    if len(statements) == 1:
        assert await found(database, "mug") == ["p"]
        await program.execute("UPDATE public.goods SET title = 'A rug'")
        await index(program, store)
        assert await found(database, "rug") == ["p"]
        return
    assert await found(database, "mug") == ["mug-1", "mug-2"]
    await program.execute("UPDATE shop.articles SET name = 'A rug' WHERE sku = 'mug-1'")
    await program.execute("UPDATE shop.articles SET on_sale = false WHERE sku = 'mug-2'")
    await index(program, store)
    assert await found(database, "rug") == ["mug-1"]
    assert await found(database, "bigger") == []


async def test_a_product_that_cannot_be_indexed_keeps_no_other_from_being_found(
    program: Connection, store: ProductSearchStore, database: str
) -> None:
    for n in range(5):
        await insert(program, f"p{n}", "A mug")
    await index(program, store)
    await run(database, UPDATABLE)
    await run(
        database,
        """CREATE OR REPLACE FUNCTION public.brand_of(text, text) RETURNS text IMMUTABLE LANGUAGE sql AS $$
               SELECT CASE WHEN $1 = 'p3' THEN (1 / length($2))::text ELSE $2 END $$""",
    )
    await run(database, "DROP VIEW cache_sidecar.products")
    await run(
        database,
        """CREATE VIEW cache_sidecar.products AS SELECT product_id, title, description, price_units, price_nanos, currency_code,
               categories, public.brand_of(product_id, brand) AS brand, image_uris, attributes, active, create_time, update_time,
               cache_sidecar.version_of('product', product_id) AS version FROM public.goods""",
    )
    await program.execute("UPDATE public.goods SET title = 'A rug'")
    await index(program, store)
    assert await found(database, "rug") == ["p0", "p1", "p2", "p4"]
    assert await found(database, "mug") == []


async def test_the_roles_may_do_what_they_need_and_no_more(program: Connection, database: str) -> None:
    await insert(program, "p", "A mug")
    for role, attempt in (
        (SIDECAR, "SELECT cache_sidecar.index_products(1)"),
        (SIDECAR, "DELETE FROM cache_sidecar.product_documents"),
        (SIDECAR, "SELECT cache_sidecar.reindex_products('english')"),
        (RELAY, "SELECT * FROM cache_sidecar.product_documents"),
        (RELAY, "SELECT cache_sidecar.reindex_products('english')"),
    ):
        with pytest.raises(InsufficientPrivilege):
            await run(as_role(role, database), attempt)


async def test_a_search_among_20_000_products_uses_the_index(
    program: Connection, store: ProductSearchStore, database: str
) -> None:
    await program.execute(
        """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code, brand, categories, attributes)
           SELECT 'p' || n, 'Product ' || n || CASE WHEN n % 1000 = 0 THEN ' rare' ELSE '' END, n, 'EUR', 'brand ' || n % 9,
                  ARRAY['c' || n % 7], jsonb_build_object('color', 'c' || n % 5)
           FROM generate_series(1, 20000) AS n"""
    )
    while True:
        cursor = await program.execute("SELECT cache_sidecar.sequence_changes()")
        if await cursor.fetchone() == (0,):
            break
    await index(program, store)
    await program.execute("ANALYZE cache_sidecar.product_documents")
    facets = ["categories", "brand", "attributes.color"]
    rare = words("rare")._replace(facets=facets, brands=["brand 1"], attributes=[("color", ["c0"])])
    for search in (words("rare"), rare, words("prod"), words("")._replace(words=Words("", "", "rar"))):
        text, parameters = statement(search)
        cursor = await program.execute(f"EXPLAIN {text}", parameters)  # type: ignore[arg-type]
        plan = "\n".join(line for (line,) in await cursor.fetchall())
        assert "Bitmap Index Scan on product_documents_document" in plan, plan
        assert "Seq Scan on product_documents" not in plan
    async with open_database(as_role(SIDECAR, database)) as opened:
        result = await ProductSearchStore(opened).find(words("product")._replace(facets=facets))
        assert (result.matches, len(result.products)) == (10_001, 500)
        result = await ProductSearchStore(opened).find(words("rare")._replace(facets=facets))
        assert result.matches == 20
        assert {sum(count for _, count in values) for values in result.facets.values()} == {20}


async def test_no_text_makes_postgresql_fail(program: Connection, store: ProductSearchStore, database: str) -> None:
    """Some texts make websearch_to_tsquery raise an internal error, and after one connections are replaced."""
    await index(program, store)
    async with open_database(as_role(SIDECAR, database)) as opened:
        assert await _search_at_random(product_search.loader(ProductSearchStore(opened))) > 500


async def _search_at_random(load: Load) -> int:
    rng = random.Random(1)
    pieces = [
        "-",
        "- ",
        '-"',
        '-" ',
        "-a ",
        '- "a',
        "or -",
        "-:*",
        "-!",
        "-&|()<>",
        "-'\\",
        "\"'a or",
        "-. ",
        "<->",
        "-² ",
        "_- ",
    ]
    searched = 0
    for number in range(1500):
        piece = pieces[number % len(pieces)]
        text = "".join(rng.choice(piece) for _ in range(rng.choice((256, 40))))
        request = pb.SearchProductsRequest(query=text, prefix=number % 2 == 0)
        try:
            id = product_search.search_of(request)
        except InvalidRequest:
            continue
        await load([id])
        searched += 1
    return searched
