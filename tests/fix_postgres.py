"""Fixtures for PostgreSQL: one server per session, and a migrated database for each test."""

import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.rights import grants
from tests.support.databases import OF_ROLES, RELAY, SIDECAR
from tests.support.free_ports import ChoosePorts

_TEMPLATE = "template_catalog"


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
    """The name of a migrated, empty database, to be copied; the roles of sidecars and relays have their rights in it."""
    await _administer(postgres, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    for name in (SIDECAR, RELAY):
        await _administer(postgres, sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), OF_ROLES))
    for role in ROLES:
        await migrate(postgres.dsn(_TEMPLATE), role, grants=grants(sidecar=SIDECAR, relay=RELAY))
    return _TEMPLATE


@pytest.fixture
async def database(postgres: Postgres, template: str) -> AsyncIterator[str]:
    """The DSN of a migrated, empty database for one test."""
    async with copy_of(template, postgres) as dsn:
        yield dsn


@contextlib.asynccontextmanager
async def copy_of(template: str, postgres: Postgres) -> AsyncIterator[str]:
    """The DSN of a migrated, empty database, for fixtures of any scope."""
    name = f"test_{uuid4().hex[:12]}"
    names = sql.Identifier(name), sql.Identifier(template)
    await _administer(postgres, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    yield postgres.dsn(name)
    await _administer(postgres, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(names[0]))


async def _administer(postgres: Postgres, statement: sql.Composed) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        await connection.execute(statement)
