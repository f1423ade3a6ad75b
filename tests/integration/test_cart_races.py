"""Changes of one cart that meet in PostgreSQL, each held there by a lock: versions follow the order of the commits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.support.customers import Customer, item, lines, new_request, new_user
from tests.support.interleaving import Actor, Held, meet
from tests.support.launch import in_process, settings_for
from tests.support.until import until

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


@pytest.mark.parametrize("missing_is", ["first", "last"])
async def test_merges_in_opposite_directions_do_not_wait_for_each_other(
    valkey: ValkeyServer, database: str, namespace: str, missing_is: str
) -> None:
    """One cart is there, and the other is written for the first time after each step of the first merge."""
    settings = settings_for(valkey.address, database, namespace, redis_mode="single", redis_timeout=5.0, postgres_timeout=30.0)
    async with (
        in_process(settings) as one,
        in_process(settings) as other,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as program,
    ):
        await program.execute("SET lock_timeout = '1s'")
        customers = Customer(one), Customer(other)
        held = [Held(sidecar.app) for sidecar in (one, other) if sidecar.app is not None]
        steps, goes_on = 1, True
        while goes_on:
            missing, there = sorted([new_user(), new_user()], reverse=missing_is == "last")
            await customers[0].add(there, item("mine"))
            actors = Actor(program), Actor(program)
            held[0].actor, held[1].actor = actors
            actors[0].begin(customers[0].merge(missing, there))
            goes_on = await actors[0].steps(steps) and not actors[0].task.done()
            # When the merge has written it itself, nobody else does.
            with contextlib.suppress(psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation):
                await program.execute(INSERT, [missing, LINES])
            actors[1].begin(customers[1].merge(there, missing))
            await meet(*actors, 0)
            held[0].actor = held[1].actor = None
            assert [actor.deadlocks for actor in actors] == [0, 0], f"after {steps} steps"
            for actor in actors:
                await actor.task
            both = [lines(await customers[0].cart(user, bypass=True)) for user in (missing, there)]
            assert {} in both, "one has everything"
            steps += 1
        assert steps > 5
