"""The real servers behind the tests: one cluster and one PostgreSQL per session, started by the first test that asks."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from psycopg import sql

from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import RECORDS, Processes, end_leftovers
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.store.migrate import migrate
from tests.ports import later_ports

pytest_plugins = ["tests.durations", "tests.suites"]

# How long an example takes says something of the machine only.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

_PREFIX = "cache-sidecar-tests-"
_TEMPLATE = "template_catalog"


@pytest.fixture(scope="session")
async def processes() -> AsyncIterator[Processes]:
    """Where tests start servers; all of them are ended with the session, or by the next session after a kill -9."""
    await _clear_killed_sessions()
    state = StateDirectory(Path(tempfile.mkdtemp(prefix=_PREFIX)))
    # As root, PostgreSQL is another user who has to pass.
    state.path.chmod(0o711)
    state.claim()
    running = Processes(state)
    yield running
    await running.stop_all()
    _discard(state)


async def _clear_killed_sessions() -> None:
    for directory in _earlier_sessions():
        state = StateDirectory(directory)
        try:
            state.claim()
        except InputError:
            continue  # a session that runs now
        await end_leftovers(state)
        _discard(state)


def _discard(state: StateDirectory) -> None:
    """Removes it while it is still ours; another session may be looking for what is left of killed ones."""
    state.remove(RECORDS)
    shutil.rmtree(state.path, ignore_errors=True)
    state.release()


def _earlier_sessions() -> list[Path]:
    found = []
    for records in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{RECORDS}"):
        # Sessions that start together find the same ones: another may have cleared this one since the glob saw it.
        with contextlib.suppress(FileNotFoundError):
            if records.stat().st_uid == os.geteuid():
                found.append(records.parent)
    return found


ChoosePorts = Callable[[int], list[int]]


@pytest.fixture(scope="session")
def choose_ports() -> ChoosePorts:
    """Returns free ports for servers that start later."""
    return later_ports


@pytest.fixture(scope="session")
async def valkey_cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    """Three primaries, three replicas. A test that breaks it heals it."""
    cluster = ValkeyCluster(processes, processes.state.path / "valkey", choose_ports(6))
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture(scope="session")
async def postgres(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[Postgres]:
    """PostgreSQL 18. A test that breaks it starts it again."""
    (port,) = choose_ports(1)
    # The data goes with the session, so it need not survive the machine; it does survive a kill -9 of the server.
    settings = {"fsync": "off", "max_connections": "300"}
    server = Postgres(processes, processes.state.path / "postgres", port, settings=settings)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def template(postgres: Postgres) -> str:
    """The name of a migrated, empty database."""
    await _administer(postgres, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    for role in ROLES:
        await migrate(postgres.dsn(_TEMPLATE), role)
    return _TEMPLATE


@pytest.fixture
async def database(postgres: Postgres, template: str) -> AsyncIterator[str]:
    """The DSN of a migrated, empty database of the test's own."""
    name = f"test_{uuid4().hex[:12]}"
    names = sql.Identifier(name), sql.Identifier(template)
    await _administer(postgres, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    yield postgres.dsn(name)
    await _administer(postgres, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(names[0]))


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own, since all tests share the cluster."""
    return f"t{uuid4().hex[:8]}"


async def _administer(postgres: Postgres, statement: sql.Composed) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        await connection.execute(statement)
