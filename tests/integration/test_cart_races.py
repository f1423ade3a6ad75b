"""Changes of one cart that meet in PostgreSQL, each held there by a lock: versions follow the order of the commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.customers import Customer, item, lines, new_request, new_user
from tests.sidecars import in_process, settings_for, until

LINES = '[{"product_id": "theirs", "quantity": 1, "price_units": 1, "price_nanos": 0, "currency_code": "EUR", "options": {}}]'
INSERT = "INSERT INTO cache_sidecar.carts (user_id, items) VALUES (%s, %s) RETURNING version"
UPDATE = "UPDATE cache_sidecar.carts SET items = %(items)s WHERE user_id = %(user)s RETURNING version"
WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def customer(valkey: ValkeyServer, database: str, namespace: str) -> AsyncIterator[Customer]:
    settings = settings_for(valkey.address, database, namespace, redis_mode="single", postgres_timeout=20.0)
    async with in_process(settings) as sidecar:
        yield Customer(sidecar)


class Other:
    """Another program's transaction in progress, and how to see who waits for it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], watching: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self._watching = watching

    async def write(self, statement: str, *values: Any, **named: Any) -> int:
        cursor = await self.connection.execute(statement, named or values)  # type: ignore[arg-type]
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def is_waited_for(self, times: int = 1) -> bool:
        return (await self._watching.execute(WAITING)).rowcount == times

    async def deletion_of(self, user: str) -> int:
        return await self.write("SELECT max(version) FROM cache_sidecar.outbox WHERE id = %s AND kind = 'deleted'", user)


@pytest.fixture
async def other(database: str) -> AsyncIterator[Other]:
    async with (
        await psycopg.AsyncConnection.connect(database) as connection,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as watching,
    ):
        yield Other(connection, watching)


async def test_a_first_change_waits_for_another_first_change_and_comes_after_it(customer: Customer, other: Other) -> None:
    user = new_user()
    first = await other.write(INSERT, user, LINES)
    adding = asyncio.create_task(customer.add(user, item("mine")))
    await until(other.is_waited_for)
    await other.connection.commit()
    cart = await adding
    assert lines(cart) == {"theirs": 1, "mine": 1}
    assert int(cart.etag, 16) > first


async def test_a_first_change_counts_when_the_other_one_is_rolled_back(customer: Customer, other: Other) -> None:
    user = new_user()
    await other.write(INSERT, user, LINES)
    adding = asyncio.create_task(customer.add(user, item("mine")))
    await until(other.is_waited_for)
    await other.connection.rollback()
    assert lines(await adding) == {"mine": 1}


async def test_a_change_that_waited_for_another_is_made_to_what_that_left(customer: Customer, other: Other) -> None:
    user, request = new_user(), new_request()
    before = await customer.add(user, item("mine"))
    second = await other.write(UPDATE, items=LINES, user=user)
    adding = asyncio.create_task(customer.add(user, item("mine"), request))
    await until(other.is_waited_for)
    await other.connection.commit()
    cart = await adding
    assert lines(cart) == {"theirs": 1, "mine": 1}
    assert int(before.etag, 16) < second < int(cart.etag, 16)
    assert cart.create_time == before.create_time
    assert await customer.add(user, item("mine"), request) == cart, "the request is in the ledger once"
    assert await customer.cart(user, bypass=True) == cart


async def test_a_change_that_waited_for_a_deletion_comes_after_it(customer: Customer, other: Other, database: str) -> None:
    user = new_user()
    await customer.add(user, item("mine"))
    async with _deletion_in_progress(other, database, user):
        adding = asyncio.create_task(customer.add(user, item("again")))
        await until(lambda: other.is_waited_for(2))
    cart = await adding
    assert lines(cart) == {"again": 1}
    assert int(cart.etag, 16) > await other.deletion_of(user)


async def test_a_cart_inserted_in_sql_during_its_deletion_comes_after_it(other: Other, database: str) -> None:
    user = new_user()
    await other.write(INSERT, user, LINES)
    await other.connection.commit()
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as shop,
        _deletion_in_progress(other, database, user),
    ):
        inserting = asyncio.create_task(Other(shop, shop).write(INSERT, user, LINES))
        await until(lambda: other.is_waited_for(2))
    assert await inserting > await other.deletion_of(user)


@asynccontextmanager
async def _deletion_in_progress(other: Other, database: str, user: str) -> AsyncIterator[None]:
    """Holds one statement that deletes two carts between the two: the version of the first deletion is not drawn yet."""
    last = new_user()
    await other.write(INSERT, last, LINES)
    await other.connection.commit()
    await other.write(UPDATE, items="[]", user=last)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as deleting:
        deletion = asyncio.create_task(deleting.execute("DELETE FROM cache_sidecar.carts"))
        await until(other.is_waited_for)
        yield
        await other.connection.commit()
        await deletion
