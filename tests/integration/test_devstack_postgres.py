"""The embedded PostgreSQL: it crashes like a real one and recovers."""

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psutil
import psycopg
import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import ChildFailed, Processes
from cache_sidecar.devstack.state import LONGEST_SOCKET_PATH
from cache_sidecar.devstack.waiting import until

ChoosePorts = Callable[[int], list[int]]
SLEEP = ["/bin/sleep", "600"]


@pytest.fixture(params=[16, 18])
async def own_postgres(
    request: pytest.FixtureRequest, processes: Processes, choose_ports: ChoosePorts
) -> AsyncIterator[Postgres]:
    """A server of the test's own, of either version."""
    (port,) = choose_ports(1)
    server = Postgres(
        processes,
        processes.state.path / f"pg-{port}",
        port,
        version=request.param,
        settings={"log_statement": "all", "work_mem": "7MB"},
        role=f"postgres-{port}",
    )
    await server.start()
    yield server
    await server.stop()


@contextmanager
def _bystander(owner: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the user whom PostgreSQL runs as; it does not mind those of others."""
    with subprocess.Popen(SLEEP, user=owner if os.geteuid() == 0 else None) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_postgresql_crashes_recovers_and_is_not_fooled_by_stale_locks(own_postgres: Postgres) -> None:
    await _execute(own_postgres, "CREATE TABLE kept (a int)", "INSERT INTO kept VALUES (1)")
    first = own_postgres.pid
    own_postgres.kill()
    assert not psutil.pid_exists(first)
    data = own_postgres.directory / "data"
    locks = [data / "postmaster.pid", own_postgres.directory / "run" / f".s.PGSQL.{own_postgres.port}.lock"]
    with _bystander(data.stat().st_uid) as bystander:
        for lock in locks:
            _, rest = lock.read_text().split("\n", 1)
            lock.write_text(f"{bystander.pid}\n{rest}")
        await own_postgres.restart()
        assert await _execute(own_postgres, "SELECT a FROM kept") == [(1,)]
        assert own_postgres.pid != first
        assert bystander.poll() is None


async def test_postgresql_takes_settings_and_a_password_and_has_a_log(own_postgres: Postgres) -> None:
    marker = f"marker_{uuid4().hex}"
    assert await _execute(own_postgres, "SHOW work_mem") == [("7MB",)]
    await _execute(own_postgres, f"SELECT 1 AS {marker}")
    assert await until(_async(lambda: marker in own_postgres.child.log.read_text()), seconds=10)
    password = own_postgres.directory / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(own_postgres.dsn().replace(password.read_text(), "wrong"))


async def test_postgresql_listens_on_a_socket_in_its_directory(own_postgres: Postgres) -> None:
    host = own_postgres.directory / "run"
    async with await psycopg.AsyncConnection.connect(own_postgres.dsn(), host=str(host), hostaddr="") as connection:
        assert connection.info.host == str(host)


async def test_a_long_path_means_no_socket(processes: Processes, choose_ports: ChoosePorts) -> None:
    (port,) = choose_ports(1)
    directory = processes.state.path / ("x" * LONGEST_SOCKET_PATH)
    server = Postgres(processes, directory, port, role="postgres-long")
    await server.start()
    try:
        assert await _execute(server, "SHOW unix_socket_directories") == [("",)]
    finally:
        await server.stop()


async def test_a_hung_postgresql_answers_nobody_and_then_everybody(own_postgres: Postgres) -> None:
    own_postgres.pause()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        await psycopg.AsyncConnection.connect(own_postgres.dsn(), connect_timeout=2)
    own_postgres.resume()
    assert await _execute(own_postgres, "SELECT 1") == [(1,)]


async def test_another_server_on_the_data_is_left_alone(postgres: Postgres, processes: Processes) -> None:
    second = Postgres(processes, postgres.directory, postgres.port + 1, role="postgres-second")
    with pytest.raises(InputError, match=rf"not started here \(pid {postgres.pid}\)"):
        await second.start()
    assert await _execute(postgres, "SELECT 1") == [(1,)]


async def test_data_of_another_version_is_one_line(own_postgres: Postgres, processes: Processes) -> None:
    found = int((own_postgres.directory / "data" / "PG_VERSION").read_text())
    other = {16: 18, 18: 16}[found]
    with pytest.raises(InputError, match=f"was created by PostgreSQL {found}, not {other}: remove it"):
        await Postgres(processes, own_postgres.directory, own_postgres.port, version=other, role="other").start()


async def test_an_interrupted_initdb_leaves_nothing_that_counts(processes: Processes, choose_ports: ChoosePorts) -> None:
    (port,) = choose_ports(1)
    server = Postgres(processes, processes.state.path / "pg-interrupted", port, role="postgres-interrupted")
    first = asyncio.create_task(server.start())
    assert await until(_async((server.directory / "data.new" / "PG_VERSION").exists), seconds=20, interval=0.001)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not (server.directory / "data").exists()
    await processes.stop([child for child in processes.children() if child.role == "postgres-interrupted-initdb"])
    await server.start()
    assert await _execute(server, "SELECT 1") == [(1,)]
    await server.stop()


async def test_a_port_that_is_taken_is_one_line(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Postgres(processes, processes.state.path / "pg-taken", port, role="postgres-taken")
        with pytest.raises(ChildFailed, match=r"^postgres-taken did not start: .*could not create any TCP/IP sockets"):
            await server.start()
    await server.stop()


async def test_every_test_has_a_migrated_database_of_its_own(database: str, postgres: Postgres) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute("SELECT current_database(), count(*) FROM cache_sidecar.products")
        name, count = await cursor.fetchone() or ("", -1)
    assert name.startswith("test_")
    assert count == 0
    assert database == postgres.dsn(name)


async def _execute(server: Postgres, *statements: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:
        for statement in statements:
            cursor = await connection.execute(statement)
        return await cursor.fetchall() if cursor.description else []


def _async(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return condition()

    return ask
