"""Whatever the role and the database are set to, statements mean the same: on sessions of ours, and behind poolers."""

import asyncio
import os
import pwd
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from cache_sidecar.core.errors import TierFailed
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay.holds import ExpiredHolds
from cache_sidecar.store import connection as module
from cache_sidecar.store.bulk import BulkCarts
from cache_sidecar.store.connection import SETTINGS, Connection
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.product_search import ProductSearchStore
from cache_sidecar.store.reservation import HoldStore
from cache_sidecar.store.writes import Transaction, WriteResult
from cache_sidecar.v1 import product_service_pb2, session_service_pb2
from tests.failure.outages.standby import standby_of
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import Customer, item, lines, new_user
from tests.support.databases import open_database, run
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.shop import Shop
from tests.support.stockroom import EXPIRED, Stockroom
from tests.support.until import until

# What a database administrator may have set.
FOUND = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "client_encoding": "SQL_ASCII",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "gin_fuzzy_search_limit": "1",
    "search_path": "no_such_schema",
    "row_security": "off",
    "plan_cache_mode": "force_generic_plan",
    "xmloption": "document",
    "session_replication_role": "replica",
    "statement_timeout": "1min",
    "lock_timeout": "1min",
    "idle_in_transaction_session_timeout": "1min",
    "idle_session_timeout": "1min",
    "transaction_timeout": "1min",
}


async def settle(database: str, found: dict[str, str]) -> None:
    """Sets the database to something, for sessions from now on."""
    name = conninfo_to_dict(database)["dbname"]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        for setting, value in found.items():
            quoted = value if setting == "DateStyle" else f"'{value}'"
            await connection.execute(f"ALTER DATABASE {name} SET {setting} TO {quoted}")  # type: ignore[arg-type]


@pytest.fixture(params=["ours", "pooled"])
def pooled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether sessions look like a pooler's, whose pid is not that of the process."""
    if request.param == "pooled":
        monkeypatch.setattr(
            module,
            inside.APPLY_SETTINGS,
            inside.apply_settings_of(module).replace("pg_backend_pid() = %s", "pg_backend_pid() = -%s"),
        )
    return request.param == "pooled"


async def everything(shop: Shop, dsn: str) -> None:
    """Does a bit of everything, and looks at what comes of it."""
    customer, stock = Customer(shop.sidecar), Stockroom(shop.sidecar.channel)
    title = "Tasse für 5 €, 日本, \\ und 'so'"
    made = await shop.create(title=title, categories=["a", "NULL"], attributes={"größe": "½"})
    id = made.product_id
    assert made.create_time.ToDatetime().year >= 2026
    read = (await shop.get(id, bypass=True)).product
    assert (read, read.title, list(read.categories)) == (made, title, ["a", "NULL"])
    more = [await shop.create(categories=["a"]) for _ in range(30)]
    listed = await shop.products.ListProducts(product_service_pb2.ListProductsRequest(category="a", page_size=100))
    assert len(listed.products) == len(more) + 1, "whatever gin_fuzzy_search_limit is"
    async with open_database(dsn) as database:
        await Outbox(database).sequence()
        while await ProductSearchStore(database).index(200):
            pass
    search = product_service_pb2.SearchProductsRequest(query="mug", facets=["categories"])
    searched = await shop.products.SearchProducts(search)
    assert (searched.total_size, searched.facets[0].values[0].count) == (len(more), len(more))
    search = product_service_pb2.SearchProductsRequest(query="日本 ½ für")
    assert [one.product_id for one in (await shop.products.SearchProducts(search)).products] == [id]
    changed = await shop.update(id, title="€")
    assert int(changed.etag, 16) > int(made.etag, 16)
    user = new_user()
    for product in ("a", "b"):
        cart = await customer.add(user, item(product, 2, "29.99 EUR", grösse="€"))
    assert await customer.cart(user, bypass=True) == cart
    assert lines(cart) == {"a": 2, "b": 2}
    session_id = await customer.create(user, name="€")
    await customer.forget("session")
    session = (await customer.session(session_id)).session
    assert dict(session.attributes) == {"name": "€"}
    page = await customer.sessions.ListUserSessions(session_service_pb2.ListUserSessionsRequest(user_id=user))
    assert [one.create_time for one in page.sessions] == [session.create_time]
    for product in more:
        await stock.set(product.product_id, 10)
    held = await asyncio.gather(*(stock.reserve({product.product_id: 1}) for product in more))
    await asyncio.gather(*(stock.commit(one.reservation_id) for one in held[1:]))
    assert await stock.numbers(more[0].product_id, bypass=True) == (9, 1)
    clock = ManualClock(held[0].expire_time.seconds + 1)
    async with open_database(dsn) as database:
        assert await ExpiredHolds(HoldStore(database), clock=clock).step() == 1
        changes = await Outbox(database).after(0, limit=1000)
    assert (await stock.calls.GetReservation(_reservation(held[0].reservation_id))).reservation.state == EXPIRED
    assert {change.dataset for change in changes} == {"product", "product_list", "cart", "session", "inventory"}
    assert await customer.log_out_everywhere(user) == 1


def _reservation(id: str) -> Any:
    from cache_sidecar.v1.inventory_service_pb2 import GetReservationRequest  # noqa: PLC0415

    return GetReservationRequest(reservation_id=id)


async def test_nothing_that_a_database_is_set_to_changes_a_result(
    database: str, valkey_cluster: ValkeyCluster, namespace: str, pooled: bool
) -> None:
    await settle(database, FOUND)
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace, postgres_timeout=20.0)
    async with in_process(settings) as sidecar:
        await everything(Shop(sidecar), database)


async def test_an_import_writes_what_the_file_says(database: str, pooled: bool) -> None:
    await settle(database, FOUND)
    columns = ("user_id", "items", "create_time", "update_time")
    async with BulkCarts(database) as bulk:
        time = "2026-02-03T04:05:06+00:00"
        assert await bulk.upsert(columns, [("ann €", "[]", time, time)]) == 1
    async with await Connection.connect(database) as connection:
        cursor = await connection.execute("SELECT user_id, update_time FROM cache_sidecar.carts")
        ((user_id, found),) = await cursor.fetchall()
    assert (user_id, found.isoformat()) == ("ann €", time)


async def test_a_session_is_settled_where_it_is_ours_alone(database: str, pooled: bool) -> None:
    await settle(database, FOUND)
    async with await Connection.connect(database) as connection:
        assert connection.is_pooled == pooled
        outside = {name: await _shown(connection, name) for name in SETTINGS}
        async with connection.begin():
            entered = {name: await _shown(connection, name) for name in SETTINGS}
            assert await _shown(connection, "transaction_isolation") == "read committed"
        after = {name: await _shown(connection, name) for name in SETTINGS}
    wanted = {name: setting.value for name, setting in SETTINGS.items()}
    found = {name: FOUND.get(name, value) for name, value in wanted.items()}
    assert entered == wanted
    assert outside == after == (found if pooled else wanted), "what others get of a pooler is not ours to change"
    assert sum(found[name] != wanted[name] for name in wanted) >= len(wanted) - 1


async def _shown(connection: Connection, name: str) -> str:
    cursor = await connection.execute("SELECT current_setting(%s)", [name])
    (value,) = await cursor.fetchone() or ("",)
    return str(value)


async def test_a_shop_s_own_durability_is_left_as_it_is(database: str) -> None:
    await settle(database, {"synchronous_commit": "remote_apply"})
    async with await Connection.connect(database) as connection:
        assert await _shown(connection, "synchronous_commit") == "remote_apply"


async def test_a_transaction_whose_failure_was_passed_over_is_not_taken_for_committed(database: str) -> None:
    async with await Connection.connect(database) as connection:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            async with connection.begin():
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await connection.execute("SELECT 1 / 0")
        assert await _shown(connection, "transaction_isolation") == "read committed"


# A real pooler


@pytest.fixture
async def pgbouncer(
    processes: Processes, choose_ports: ChoosePorts, postgres: Postgres, database: str, tmp_path: Path
) -> AsyncIterator[str]:
    """The DSN of the database, settled so, behind a PgBouncer in transaction mode with few sessions."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    await settle(database, FOUND)
    (port,) = choose_ports(1)
    parts = conninfo_to_dict(database)
    folder = processes.state.path / f"pgbouncer-{uuid4().hex[:8]}"
    folder.mkdir()
    (folder / "users").write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    (folder / "ini").write_text(
        f"""[databases]
{parts["dbname"]} = host=127.0.0.1 port={postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = scram-sha-256
auth_file = {folder / "users"}
pool_mode = transaction
default_pool_size = 3
unix_socket_dir =
"""
    )
    command = [program, str(folder / "ini")]
    if os.geteuid() == 0:  # it refuses to be root
        nobody = pwd.getpwnam("nobody")
        for path in (folder, folder / "users", folder / "ini"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        command[1:1] = ["-u", "nobody"]
    child = processes.start("pgbouncer", command, directory=folder, environment=dict(os.environ))
    dsn = f"postgresql://{parts['user']}:{parts['password']}@127.0.0.1:{port}/{parts['dbname']}"

    async def answers() -> bool:
        try:
            await run(dsn, "SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    await until(answers)
    yield dsn
    await processes.stop([child])


@pytest.mark.parametrize("prepare", [False, True])
async def test_nor_behind_pgbouncer(
    pgbouncer: str, database: str, valkey_cluster: ValkeyCluster, namespace: str, prepare: bool
) -> None:
    """Also with prepared statements, which PgBouncer before 1.21 does not know: that is found out, and they are left off."""
    settings = settings_for(
        ",".join(valkey_cluster.addresses), pgbouncer, namespace, postgres_timeout=20.0, postgres_prepare=prepare
    )
    async with in_process(settings) as sidecar:
        await everything(Shop(sidecar), database)
    for name in ("default_transaction_isolation", "statement_timeout", "session_replication_role"):
        assert await run(f"{pgbouncer}?client_encoding=UTF8", f"SHOW {name}") == [(FOUND[name],)], (
            "nothing of ours is left for others"
        )


# A standby


async def test_a_standby_is_read_and_refuses_writes_as_such(
    processes: Processes, choose_ports: ChoosePorts, pooled: bool
) -> None:
    """Behind a pooler, too: no standby takes the wish to write, not even for a transaction that only reads."""
    first, second = choose_ports(2)
    folder = processes.state.path / f"primary-{uuid4().hex[:8]}"
    primary = Postgres(processes, folder, first, settings={"fsync": "off"}, role="postgres-primary")
    await primary.start()
    standby = await standby_of(primary, processes, folder.with_name(f"{folder.name}-standby"), second)
    try:
        async with open_database(standby.dsn("postgres")) as database:
            assert await database.fetch("SELECT 1", []) == [(1,)]

            async def work(tx: Transaction) -> WriteResult[None]:
                await tx.execute("CREATE TABLE public.x ()")
                return WriteResult(b"")

            with pytest.raises(TierFailed, match="read-only transaction"):
                await database.write(None, work)
            await run(standby.dsn("postgres"), "SELECT pg_promote()")
            assert (await database.write(None, work)).reply == b"", "the same sessions write once it is the primary"
    finally:
        await standby.stop()
        await primary.stop()
