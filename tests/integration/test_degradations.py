"""Whoever looks is told why: every dependency that cannot be used, in the log, by GetStats and by the probe, without passwords."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import Access, ValkeyCluster, ValkeyServer
from cache_sidecar.store.migrate import migrate
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from tests.failure.outages.standby import standby_of
from tests.support.authority import Authority
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.shop import STORE, Shop, new_id, refused
from tests.support.until import DEADLINE, until

Log = list[MutableMapping[str, Any]]
PASSWORD = "of-the-shop"
OF_THE_READER = "of/the@reader"


@pytest.fixture
async def server(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyServer]:
    """A server with a user `shop`."""
    (port,) = choose_ports(1)
    access = Access(users=(f"user shop on >{PASSWORD} ~* &* +@all",))
    running = ValkeyServer(processes, processes.state.path / f"valkey-{port}", port, access=access)
    await running.start()
    yield running
    await running.stop()


def warnings(log: Log, what: str) -> list[str]:
    return [line["reason"] for line in log if line["log_level"] == "warning" and line.get("what") == what]


def recoveries(log: Log, what: str) -> int:
    return sum(line["event"] == "a dependency works again" and line["what"] == what for line in log)


async def reasons(shop: Shop, what: str) -> list[str]:
    """Returns why dependencies of a kind fail; each says since when."""
    reply = await shop.admin.GetStats(GetStatsRequest())
    found = [one for one in reply.degradations if one.what == what]
    assert all(one.since_time.seconds and one.effect for one in found)
    return [one.reason for one in found]


async def probed(shop: Shop, what: str) -> list[str]:
    """Returns what `cache-sidecar-probe --verbose` says of dependencies of a kind."""
    program = str(Path(sys.executable).with_name("cache-sidecar-probe"))
    run = await asyncio.create_subprocess_exec(program, shop.address, "--verbose", stdout=subprocess.PIPE)
    said, _ = await asyncio.wait_for(run.communicate(), DEADLINE)
    return [line for line in said.decode().splitlines() if line.startswith(f"degraded: {what} ")]


@contextlib.asynccontextmanager
async def told_why(settings: Settings, what: str, words: str) -> AsyncIterator[tuple[Shop, Log]]:
    """Runs a sidecar; the log, GetStats and the probe have to say these words of a dependency, once."""
    with capture_logs() as log:
        async with in_process(settings, trusted=False, relay=False) as sidecar:
            shop = Shop(sidecar)
            assert "serving" in [line["event"] for line in log], "it waits for nobody"
            try:
                await until(lambda: _says(shop, what, words))
            except AssertionError:
                raise AssertionError((await reasons(shop, what), log)) from None
            (warning,) = [reason for reason in warnings(log, what) if words in reason]
            assert "\n" not in warning
            assert [line for line in await probed(shop, what) if words in line and "; since 20" in line]
            yield shop, log
    assert PASSWORD not in str(log)
    assert OF_THE_READER not in str(log)


async def _says(shop: Shop, what: str, words: str) -> bool:
    return any(words in reason for reason in await reasons(shop, what))


async def _is_well(shop: Shop, what: str) -> bool:
    return not await reasons(shop, what)


async def healed(shop: Shop, log: Log, what: str) -> None:
    """Returns when nothing is said any more, but once that it works again."""
    try:
        await until(lambda: _is_well(shop, what))
    except AssertionError:
        raise AssertionError((await reasons(shop, what), log)) from None
    assert recoveries(log, what) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"redis_username": "shop", "redis_password": f"not-{PASSWORD}"}, "WRONGPASS"),
        ({"redis_nodes": "no-such-host.invalid:6379"}, "no-such-host.invalid"),
        ({"redis_mode": "cluster"}, "cluster support disabled"),
    ],
)
async def test_a_redis_that_cannot_be_used(
    server: ValkeyServer, database: str, namespace: str, changes: dict[str, Any], words: str
) -> None:
    settings = settings_for(server.address, database, namespace)
    settings = settings.model_copy(update=Settings(**settings.model_dump(exclude_unset=True) | changes).model_dump())
    async with told_why(settings, "redis", words) as (shop, log):
        id = (await shop.create()).product_id
        assert await shop.source(id) == STORE
        assert f"not-{PASSWORD}" not in str(log)


async def test_a_redis_whose_certificate_is_not_trusted(database: str, namespace: str, tmp_path: Path) -> None:
    own, other = Authority().server("localhost"), tmp_path / "ca"
    (tmp_path / "cert").write_bytes(own.cert)
    (tmp_path / "key").write_bytes(own.key)
    other.write_bytes(Authority().cert)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = settings_for(address, database, namespace, redis_tls=True, redis_tls_ca=str(other))
        async with told_why(settings, "redis", "certificate verify failed"):
            pass


async def test_a_password_of_redis_that_is_mended(server: ValkeyServer, database: str, namespace: str) -> None:
    settings = settings_for(server.address, database, namespace, redis_username="shop", redis_password="another")
    async with told_why(settings, "redis", "WRONGPASS") as (shop, log):
        async with server.client() as client:
            await client.execute_command("ACL", "SETUSER", "shop", ">another")
        await healed(shop, log, "redis")


async def test_a_cluster_that_is_taken_for_a_single_server(
    valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    settings = settings_for(valkey_cluster.addresses[0], database, namespace, redis_mode="single")
    async with told_why(settings, "invalidations", "MOVED"):
        pass


def _with(dsn: str, **changes: str) -> str:
    parts = {**conninfo_to_dict(dsn), **changes}
    user, password = (part.replace("/", "%2F").replace("@", "%40") for part in (str(parts["user"]), str(parts["password"])))
    return f"postgresql://{user}:{password}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"dbname": "no_such_database"}, 'database "no_such_database" does not exist'),
        ({"port": "1"}, "Connection refused"),
        ({"dbname": "postgres"}, "run `cache-sidecar migrate`"),
    ],
)
async def test_a_postgresql_that_cannot_be_used(
    server: ValkeyServer, database: str, namespace: str, changes: dict[str, str], words: str
) -> None:
    # What it says is the reason, not that a busy machine took longer than usual to hear it.
    settings = settings_for(server.address, _with(database, **changes), namespace, postgres_timeout=60.0)
    async with told_why(settings, "postgresql", words):
        pass


async def _execute(dsn: str, *statements: sql.Composed | str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement if isinstance(statement, sql.Composed) else sql.SQL(statement).format())


@pytest.fixture
async def empty(postgres: Postgres, namespace: str) -> AsyncIterator[str]:
    """The DSN of an empty database."""
    name = sql.Identifier(f"empty_{namespace}")
    await _execute(postgres.dsn("postgres"), sql.SQL("CREATE DATABASE {}").format(name))
    yield postgres.dsn(f"empty_{namespace}")
    await _execute(postgres.dsn("postgres"), sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


async def test_a_database_that_was_never_migrated_is_then(server: ValkeyServer, empty: str, namespace: str) -> None:
    async with told_why(settings_for(server.address, empty, namespace), "postgresql", "run `cache-sidecar migrate`") as (
        shop,
        log,
    ):
        assert (await refused(shop.create())).reason == "TIER_UNAVAILABLE"
        for role in ROLES:
            await migrate(empty, role)
        await healed(shop, log, "postgresql")
        await shop.create()


async def test_a_database_of_an_older_version(server: ValkeyServer, database: str, namespace: str) -> None:
    await _execute(database, "DELETE FROM cache_sidecar.migrations WHERE name = '0003_own_tables'")
    words = "migrations shared/0003_own_tables were not applied: run `cache-sidecar migrate`"
    async with told_why(settings_for(server.address, database, namespace), "postgresql", words):
        pass


@pytest.fixture
async def reader(postgres: Postgres, database: str, namespace: str) -> AsyncIterator[str]:
    """A DSN whose user may only read."""
    name = sql.Identifier(f"reader_{namespace}")
    await _execute(
        database,
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, OF_THE_READER),
        sql.SQL("GRANT USAGE ON SCHEMA cache_sidecar TO {}").format(name),
        sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA cache_sidecar TO {}").format(name),
    )
    yield _with(database, user=f"reader_{namespace}", password=OF_THE_READER)
    await _execute(database, sql.SQL("DROP OWNED BY {}").format(name), sql.SQL("DROP ROLE {}").format(name))


async def test_a_user_who_may_only_read_and_then_write(
    server: ValkeyServer, database: str, reader: str, namespace: str
) -> None:
    async with told_why(settings_for(server.address, reader, namespace), "postgresql", "lacks INSERT on carts") as (shop, log):
        name = sql.Identifier(f"reader_{namespace}")
        await _execute(
            database,
            sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA cache_sidecar TO {}").format(name),
            sql.SQL("GRANT ALL ON ALL SEQUENCES IN SCHEMA cache_sidecar TO {}").format(name),
            sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cache_sidecar TO {}").format(name),
        )
        await healed(shop, log, "postgresql")


async def test_a_standby_that_is_promoted(
    server: ValkeyServer, processes: Processes, choose_ports: ChoosePorts, namespace: str
) -> None:
    first, second = choose_ports(2)
    folder = processes.state.path / f"primary-{namespace}"
    primary = Postgres(processes, folder, first, settings={"fsync": "off"}, role="postgres-primary")
    await primary.start()
    dsn = primary.dsn("postgres")
    for role in ROLES:
        await migrate(dsn, role)
    standby = await standby_of(primary, processes, folder.with_name(f"{folder.name}-standby"), second)
    try:
        async with told_why(settings_for(server.address, standby.dsn("postgres"), namespace), "postgresql", "is a standby") as (
            shop,
            log,
        ):
            assert (await refused(shop.create())).reason == "TIER_UNAVAILABLE"
            await until(lambda: _says_when_refused(shop.create, shop, "cannot execute INSERT in a read-only transaction"))
            await _execute(standby.dsn("postgres"), "SELECT pg_promote()")
            await healed(shop, log, "postgresql")
            await shop.create()
    finally:
        await standby.stop()
        await primary.stop()


async def test_what_is_refused_while_it_runs_is_said_until_it_is_not(
    server: ValkeyServer, database: str, namespace: str
) -> None:
    with capture_logs() as log:
        async with in_process(settings_for(server.address, database, namespace)) as sidecar:
            shop = Shop(sidecar)
            await until(lambda: _is_well(shop, "postgresql"))
            await _execute(database, "ALTER TABLE cache_sidecar.products RENAME TO away")
            words = 'relation "cache_sidecar.products" does not exist'
            for _ in range(50):
                await refused(shop.get(new_id()))
            await until(lambda: _says(shop, "postgresql", words))
            assert [reason for reason in warnings(log, "postgresql") if words in reason] == [words]
            await _execute(database, "ALTER TABLE cache_sidecar.away RENAME TO products")
            await healed(shop, log, "postgresql")


# Whoever reads products is told what a pooler says that does not know of prepared statements.
FORGOTTEN = (
    """CREATE FUNCTION cache_sidecar.forgotten() RETURNS boolean STABLE LANGUAGE plpgsql AS $$
       BEGIN RAISE 'prepared statement "_pg3_0" does not exist' USING ERRCODE = 'invalid_sql_statement_name'; END $$""",
    "ALTER TABLE cache_sidecar.products RENAME TO away",
    "CREATE VIEW cache_sidecar.products AS SELECT * FROM cache_sidecar.away WHERE cache_sidecar.forgotten()",
)


async def test_prepared_statements_that_new_connections_do_not_know_either(
    server: ValkeyServer, database: str, namespace: str
) -> None:
    """One that is told from PostgreSQL is used without them: see `test_nor_behind_pgbouncer`."""
    with capture_logs() as log:
        async with in_process(settings_for(server.address, database, namespace)) as sidecar:
            shop = Shop(sidecar)
            await until(lambda: _is_well(shop, "postgresql"))
            await _execute(database, *FORGOTTEN)
            for _ in range(10):
                await refused(shop.get(new_id(), bypass=True))
            await until(
                lambda: _says_when_refused(partial(shop.get, new_id(), bypass=True), shop, "set postgres_prepare = false")
            )
            said = [reason for reason in warnings(log, "postgresql") if "prepared statement" in reason]
            assert len(said) <= 1 + recoveries(log, "postgresql"), "once, until a check finds that all is well"
            assert all("\n" not in reason for reason in said)


async def _says_when_refused(call: Callable[[], Coroutine[Any, Any, Any]], shop: Shop, words: str) -> bool:
    await refused(call())
    return await _says(shop, "postgresql", words)
