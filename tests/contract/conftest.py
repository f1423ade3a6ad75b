"""Sidecars for the contract tests: two that all of them share, and ones with a clock of the test's own."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from psycopg import sql

from cache_sidecar.core.clock import Clock
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.acl import allow
from tests.contract.fuzz import FUZZ, FUZZ_SEED
from tests.contract.shop import Shop
from tests.engines import ENGINES
from tests.sidecars import in_process, relaying, rests_on_redis, settings_for, until


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=FUZZ, help="requests that the fuzz test makes; name its file, too")
    parser.addoption("--fuzz-seed", type=int, default=FUZZ_SEED, help="another seed, other requests")


# Servers are slow only because the machine is busy with other tests; what a time limit does has tests of its own.
PATIENT = {"redis_timeout": 5.0, "postgres_timeout": 20.0}

Open = Callable[..., AbstractAsyncContextManager[Shop]]


@pytest.fixture(scope="package", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """What answers the calls: every test is made on each."""
    return str(request.param)


@pytest.fixture(scope="package")
def shared_name(engine: str) -> str:
    """What is shared of Redis and PostgreSQL by the tests on an engine."""
    return f"{engine}_{uuid4().hex[:8]}"


@pytest.fixture(scope="package")
async def shared_database(postgres: Postgres, template: str, shared_name: str) -> str:
    """The DSN of a database for tests that don't look beyond their own products."""
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        names = sql.Identifier(shared_name), sql.Identifier(template)
        await connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    return postgres.dsn(shared_name)


@pytest.fixture(scope="package")
async def shops(
    valkey_cluster: ValkeyCluster, shared_database: str, shared_name: str, engine: str
) -> AsyncIterator[tuple[Shop, Shop]]:
    """Two sidecars of one region, for tests that use products of their own."""
    user = await allow(valkey_cluster, shared_name)
    more = user | PATIENT | {"engine": engine}
    settings = settings_for(",".join(valkey_cluster.addresses), shared_database, shared_name, **more)
    async with relaying(settings), in_process(settings, relay=False) as first, in_process(settings, relay=False) as second:
        await until(lambda: all(rests_on_redis(one.app) for one in (first, second) if one.app))
        yield Shop(first), Shop(second)


@pytest.fixture(scope="package")
def shop(shops: tuple[Shop, Shop]) -> Shop:
    """The first of them."""
    return shops[0]


@pytest.fixture
def open_shop(valkey_cluster: ValkeyCluster, database: str, namespace: str, tmp_path: Path, engine: str) -> Open:
    """Opens a sidecar of the test's own: `open_shop(clock=..., **settings)`; all of a test share database and Redis."""

    @contextlib.asynccontextmanager
    async def opened(
        *,
        clock: Clock | None = None,
        trusted: bool = True,
        credentials: grpc.ChannelCredentials | None = None,
        **settings: Any,
    ) -> AsyncIterator[Shop]:
        user = await allow(valkey_cluster, namespace) if settings.keys().isdisjoint({"redis", "namespace"}) else {}
        made = settings_for(
            settings.pop("redis", ",".join(valkey_cluster.addresses)),
            settings.pop("postgres", database),
            settings.pop("namespace", namespace),
            **user | PATIENT | {"engine": engine} | settings,
        )
        async with in_process(made, clock=clock, trusted=trusted, credentials=credentials) as sidecar:
            yield Shop(sidecar)

    return opened


@pytest.fixture
def exact_policy(tmp_path: Path) -> str:
    """A policy file without jitter, and with times that tests can name."""
    file = tmp_path / "policy.toml"
    file.write_text(
        "[product]\nl1_soft_ttl = 100\nl1_hard_ttl = 200\nl2_ttl = 1000\njitter = 0\nnegative_ttl = 10\nstale_limit = 5\n"
    )
    return str(file)
