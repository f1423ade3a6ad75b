"""A shop's own tables behind a view: the example of store/README.md, as it stands there, and what may be built beside it."""

import asyncio
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from psycopg import sql

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.rights import grants
from tests.support.databases import RELAY, SIDECAR, as_role, run
from tests.support.launch import in_process, process, publishes, settings_for
from tests.support.shop import L1, STORE, Shop, refused
from tests.support.until import until

README = resources.files("cache_sidecar.store").joinpath("README.md").read_text()
TABLE, VIEW, CHANGE, *_ = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
# A view that PostgreSQL can update: columns as they are.
UPDATABLE = """
    CREATE TABLE public.goods AS SELECT * FROM cache_sidecar.products;
    ALTER TABLE public.goods DROP COLUMN version, ADD PRIMARY KEY (product_id), ALTER create_time SET DEFAULT now(),
        ALTER update_time SET DEFAULT now();
    DROP TABLE cache_sidecar.products;
    CREATE VIEW cache_sidecar.products AS SELECT *, cache_sidecar.version_of('product', product_id) AS version FROM public.goods;
    CREATE TRIGGER tell_caches AFTER INSERT OR UPDATE OR DELETE ON public.goods
        FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('product', 'product_id')"""


@pytest.fixture
async def example(database: str) -> str:
    """The shop of the README; its program is another user, who may do what it needs in its own schema."""
    await run(database, TABLE)
    await run(database, VIEW)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        name = sql.Identifier(f"program_{database.rpartition('_')[2]}")
        await connection.execute(sql.SQL("CREATE ROLE {}").format(name))
        await connection.execute(sql.SQL("GRANT USAGE ON SCHEMA shop TO {}").format(name))
        await connection.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON shop.articles TO {}").format(name))
    return database


async def as_program(database: str, *statements: str) -> None:
    """Does what another program does, all in one transaction."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(f"program_{database.rpartition('_')[2]}")))
        for statement in statements:
            await connection.execute(statement)  # type: ignore[arg-type]


@pytest.fixture
async def drop_program(database: str) -> AsyncIterator[None]:
    """Drops the program's user, which databases share, when the test is over."""
    yield
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        name = sql.Identifier(f"program_{database.rpartition('_')[2]}")
        await connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        await connection.execute(sql.SQL("DROP ROLE {}").format(name))


def settings_of(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> Any:
    return settings_for(",".join(valkey_cluster.addresses), database, namespace, postgres_timeout=10.0)


async def shows(shop: Shop, id: str, cents: int | None) -> bool:
    """Says whether a sidecar's memory shows a price, or, for None, that there is no such product."""
    try:
        reply = await shop.get(id)
    except grpc.aio.AioRpcError as error:
        return error.code() == grpc.StatusCode.NOT_FOUND and cents is None
    price = reply.product.price
    return price.units * 100 + price.nanos // 10_000_000 == cents and reply.cache.source == L1


@pytest.mark.usefixtures("drop_program")
async def test_a_change_in_a_shop_s_own_table_reaches_every_memory(
    example: str, valkey_cluster: ValkeyCluster, namespace: str, tmp_path: Path
) -> None:
    # The new view has its rights from here on.
    await migrate(example, *ROLES, grants=grants(sidecar=SIDECAR, relay=RELAY))
    settings = settings_of(valkey_cluster, as_role(SIDECAR, example), namespace)
    config = {
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": as_role(RELAY, example),
        "namespace": namespace,
    }
    async with (
        in_process(settings) as first,
        in_process(settings) as second,
        process("relay", tmp_path, config) as relay,
    ):
        await until(lambda: publishes(relay.log))
        shops = [Shop(first), Shop(second)]

        async def everywhere(id: str, cents: int | None) -> None:
            for shop in shops:
                await until(lambda shop=shop: shows(shop, id, cents))

        await everywhere("mug-1", 1250)
        before = (await shops[0].get("mug-1")).cache.version
        await as_program(example, CHANGE)
        await everywhere("mug-1", 1100)
        assert (await shops[0].get("mug-1")).cache.version > before
        await as_program(example, "DELETE FROM shop.articles WHERE sku = 'mug-1'")
        await everywhere("mug-1", None)
        await as_program(
            example,
            "INSERT INTO shop.articles (sku, name, cents) VALUES ('mug-1', 'A mug again', 1300)",
            "UPDATE shop.articles SET sku = 'mug-3' WHERE sku = 'mug-2'",
        )
        await everywhere("mug-1", 1300)
        await everywhere("mug-2", None)
        await everywhere("mug-3", 1490)
        refusal = await refused(shops[0].update("mug-1", title="Mine"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "READ_ONLY")
        assert "\n" not in refusal.message


@pytest.mark.usefixtures("drop_program")
async def test_a_change_that_is_rolled_back_leaves_no_version(example: str) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await as_program(example, CHANGE, "SELECT 1 / 0")
    assert await run(example, "SELECT DISTINCT version FROM cache_sidecar.products") == [(1,)]
    await as_program(example, CHANGE)
    ((version,),) = await run(example, "SELECT version FROM cache_sidecar.products WHERE product_id = 'mug-1'")
    assert version > 1
    assert await run(example, "SELECT id, version, kind FROM cache_sidecar.outbox") == [("mug-1", version, "updated")]


@pytest.mark.usefixtures("drop_program")
async def test_another_program_may_not_publish_changes_of_whatever_it_likes(example: str) -> None:
    """With USAGE on the schema, as sidecars have it, it could end anybody's session in the caches."""
    name = sql.Identifier(f"program_{example.rpartition('_')[2]}")
    async with await psycopg.AsyncConnection.connect(example, autocommit=True) as connection:
        await connection.execute(sql.SQL("GRANT USAGE ON SCHEMA cache_sidecar TO {}").format(name))
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="emit_change"):
        await as_program(
            example,
            "CREATE TEMPORARY TABLE mine (session_hash text)",
            """CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW
               EXECUTE FUNCTION cache_sidecar.emit_change('session', 'session_hash')""",
        )


async def test_versions_follow_the_order_of_the_commits_of_two_tables(database: str) -> None:
    """Both programs change one product, each in a table of its own: the one that waits draws its version last."""
    await run(
        database,
        """CREATE TABLE public.names (sku text PRIMARY KEY);
           CREATE TABLE public.prices (sku text PRIMARY KEY);
           CREATE TRIGGER t AFTER INSERT ON public.names FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('product', 'sku');
           CREATE TRIGGER t AFTER INSERT ON public.prices FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('product', 'sku')""",
    )
    async with (
        await psycopg.AsyncConnection.connect(database) as first,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as second,
    ):
        await first.execute("INSERT INTO public.names VALUES ('a')")
        pid = second.info.backend_pid
        waiting = asyncio.create_task(second.execute("INSERT INTO public.prices VALUES ('a')"))
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        await until(lambda: run(database, waits, [pid]))
        later = await run(database, "SELECT nextval('cache_sidecar.version_seq')")
        await first.commit()
        await waiting
    ((version,),) = await run(database, "SELECT version FROM cache_sidecar.versions WHERE id = 'a'")
    assert version > later[0][0]
    assert await run(database, "SELECT max(version) FROM cache_sidecar.outbox") == [(version,)]


async def test_a_view_that_can_be_updated_is_written_through(
    database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    await run(database, UPDATABLE)
    async with in_process(settings_of(valkey_cluster, database, namespace)) as sidecar:
        shop = Shop(sidecar)
        created = await shop.create(title="first")
        id = created.product_id
        for title in ("second", "third"):
            written = await shop.update(id, title=title)
            reply = await shop.get(id)
            assert (reply.product, reply.cache.version) == (written, int(written.etag, 16))
            assert (await shop.get(id, bypass=True)).product == written
        assert int(written.etag, 16) > int(created.etag, 16) > 1
        await shop.delete(id)
        assert (await refused(shop.get(id))).code == grpc.StatusCode.NOT_FOUND
        again = await shop.create(id, title="again")
        reply = await shop.get(id)
        assert (reply.product, reply.cache.source != STORE) == (again, True)
        assert (await refused(shop.create(id))).code == grpc.StatusCode.ALREADY_EXISTS
