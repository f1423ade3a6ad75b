"""Roles that are one database, and roles that are two: each distinct one has its own versions, outbox and relay loop."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.store.migrate import SHARED, migrate, migrations
from tests.support.customers import Customer, item, lines, new_user
from tests.support.launch import in_process, process, settings_for
from tests.support.shop import Shop
from tests.support.until import until


@pytest.fixture
async def databases(postgres: Postgres) -> AsyncIterator[tuple[str, str]]:
    """The DSNs of two empty databases: of the catalogue, and of the users."""
    names = [f"role_{uuid4().hex[:10]}" for _ in range(2)]
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        for name in names:
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres.dsn(names[0]), postgres.dsn(names[1])
        for name in names:
            await connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def _tables(dsn: str) -> set[str]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'cache_sidecar'")
        return {name for (name,) in await cursor.fetchall()}


async def test_what_is_shared_is_there_once_per_database(databases: tuple[str, str]) -> None:
    one, other = databases
    shared = [migration.name for migration in migrations(SHARED)]
    assert shared
    applied = {role: await migrate(one, role) for role in ROLES}
    assert applied == {
        "catalog": shared + [migration.name for migration in migrations("catalog")],
        "user": [migration.name for migration in migrations("user")],
        "analytics": [migration.name for migration in migrations("analytics")],
    }
    assert await migrate(other, "user") == shared + applied["user"]
    assert [await migrate(dsn, "user") for dsn in databases] == [[], []]
    assert {"products", "carts", "sessions", "outbox", "requests"} <= await _tables(one)
    assert {"carts", "sessions", "outbox", "requests"} <= await _tables(other)
    assert "products" not in await _tables(other)


async def test_two_roles_migrated_at_once_share_what_is_shared(databases: tuple[str, str]) -> None:
    applied = await asyncio.gather(*(migrate(databases[0], role) for role in (*ROLES, *ROLES)))
    names = [name for names in applied for name in names]
    assert len(names) == sum(len(migrations(role)) for role in (SHARED, *ROLES))


async def test_each_role_uses_its_own_database(
    databases: tuple[str, str], valkey: ValkeyServer, namespace: str, tmp_path: Path
) -> None:
    catalog, user = databases
    await migrate(catalog, "catalog")
    await migrate(user, "user", "analytics")
    roles = {"postgres_user": user, "redis_mode": "single"}
    settings = settings_for(valkey.address, catalog, namespace, **roles)
    assert settings.databases() == {catalog: ["catalog"], user: ["user", "analytics"]}
    config = {"redis_nodes": valkey.address, "postgres_catalog": catalog, "namespace": namespace, **roles}
    async with in_process(settings) as sidecar, process("relay", tmp_path, config):
        shop, customer, name = Shop(sidecar), Customer(sidecar), new_user()
        product = await shop.create()
        id = await customer.create(name)
        await customer.add(name, item(product.product_id))
        assert {"products"} <= await _tables(catalog)
        assert (await customer.session(id)).session.user_id == name
        stream = customer.watch(name)
        assert lines((await anext(aiter(stream))).cart) == {product.product_id: 1}
        # Changes in plain SQL, told by the relay: of either database.
        await _execute(user, "UPDATE cache_sidecar.carts SET items = '[]'")
        assert not (await anext(aiter(stream))).cart.items
        await until(lambda: _is_empty(customer, name))
        await _execute(catalog, "UPDATE cache_sidecar.products SET title = 'told'")
        await until(lambda: _has_title(shop, product.product_id, "told"))
        stream.cancel()  # type: ignore[attr-defined]


async def _execute(dsn: str, text: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(text)  # type: ignore[arg-type]


async def _is_empty(customer: Customer, user: str) -> bool:
    return not (await customer.cart(user)).items


async def _has_title(shop: Shop, product_id: str, title: str) -> bool:
    return (await shop.get(product_id)).product.title == title
