"""Two sidecars of one region on each engine, shared by all tests of the folder, and their callers."""

from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.contract.fuzz import FUZZ, FUZZ_SEED
from tests.support.acl import allow
from tests.support.customers import Customer
from tests.support.databases import SIDECAR, as_role
from tests.support.engine_params import ENGINES
from tests.support.launch import PATIENT, in_process, relaying, rests_on_redis, settings_for
from tests.support.shop import Shop
from tests.support.stockroom import Stockroom
from tests.support.until import until


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=FUZZ, help="number of requests the fuzz test makes; name its file, too")
    parser.addoption("--fuzz-seed", type=int, default=FUZZ_SEED, help="seed of these requests")


@pytest.fixture(scope="package", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that answers the calls: every test runs on each."""
    return str(request.param)


@pytest.fixture(scope="package")
def shared_name(engine: str) -> str:
    """The namespace in Redis and the name of the database that the tests on one engine share."""
    return f"{engine}_{uuid4().hex[:8]}"


@pytest.fixture(scope="package")
async def shared_database(postgres: Postgres, template: str, shared_name: str) -> str:
    """The DSN of a database for tests that only look at resources of their own."""
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        names = sql.Identifier(shared_name), sql.Identifier(template)
        await connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    return postgres.dsn(shared_name)


@pytest.fixture(scope="package")
async def shops(
    valkey_cluster: ValkeyCluster, shared_database: str, shared_name: str, engine: str
) -> AsyncIterator[tuple[Shop, Shop]]:
    """Two sidecars of one region, for tests that use resources of their own."""
    user = await allow(valkey_cluster, shared_name)
    more = user | PATIENT | {"engine": engine}
    settings = settings_for(",".join(valkey_cluster.addresses), as_role(SIDECAR, shared_database), shared_name, **more)
    async with relaying(settings), in_process(settings, relay=False) as first, in_process(settings, relay=False) as second:
        await until(lambda: all(rests_on_redis(one.app) for one in (first, second) if one.app))
        yield Shop(first), Shop(second)


@pytest.fixture(scope="package")
def shop(shops: tuple[Shop, Shop]) -> Shop:
    """The first of the two."""
    return shops[0]


@pytest.fixture(scope="package")
def stock(shops: tuple[Shop, Shop]) -> Stockroom:
    """The inventory as callers of the first sidecar see it."""
    return Stockroom(shops[0].channel)


@pytest.fixture(scope="package")
def other(shops: tuple[Shop, Shop]) -> Stockroom:
    """The inventory as callers of the second sidecar see it."""
    return Stockroom(shops[1].channel)


@pytest.fixture(scope="package")
def customers(shops: tuple[Shop, Shop]) -> tuple[Customer, Customer]:
    """A client of carts and sessions at each of the two sidecars."""
    return Customer(shops[0].sidecar), Customer(shops[1].sidecar)


@pytest.fixture(scope="package")
def customer(customers: tuple[Customer, Customer]) -> Customer:
    """The client at the first sidecar."""
    return customers[0]
