"""Ending all sessions of a user takes turns with whatever adds one to them, whoever adds it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.services.session import hash_of
from cache_sidecar.store.bulk import BulkSessions
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session
from tests.support.customers import Customer, new_request, new_user
from tests.support.databases import run
from tests.support.launch import in_process, settings_for
from tests.support.shop import refused
from tests.support.until import until

INSERT = """INSERT INTO cache_sidecar.sessions (session_hash, user_id, use_time, end_time)
            VALUES (%s, %s, now(), now() + interval '1 day')"""
UPDATE = "UPDATE cache_sidecar.sessions SET user_id = %s WHERE session_hash = %s"
LOCK = "SELECT FROM cache_sidecar.sessions WHERE session_hash = %s FOR UPDATE"
WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
ADDITIONS = ["create", "log in", "import", "SQL insert", "SQL update"]


@pytest.fixture
async def customers(valkey: ValkeyServer, database: str, namespace: str) -> AsyncIterator[tuple[Customer, Customer]]:
    """Two sidecars. PostgreSQL's deadlock detection is off, so a deadlock lasts until the call times out."""
    name = conninfo_to_dict(database)["dbname"]
    await run(database, f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '1h'")
    settings = settings_for(valkey.address, database, namespace, redis_mode="single", postgres_timeout=20.0)
    async with in_process(settings) as one, in_process(settings) as other:
        yield Customer(one), Customer(other)


class Addition:
    """A session that becomes a user's."""

    def __init__(self, customer: Customer, database: str, user: str, way: str) -> None:
        self._customer = customer
        self._database = database
        self._user = user
        self._way = way
        self.session_id = new_request()

    async def prepare(self) -> None:
        """Makes what there has to be before."""
        if self._way in {"log in", "SQL update"}:
            self.session_id = await self._customer.create()

    async def __call__(self) -> None:
        """Adds it."""
        match self._way:
            case "create":
                self.session_id = await self._customer.create(self._user)
            case "log in":
                session = Session(session_id=self.session_id, user_id=self._user)
                await self._customer.sessions.UpdateSession(pb.UpdateSessionRequest(session=session))
            case "import":
                now = datetime.now(UTC)
                row = [hash_of(self.session_id), self._user, now, now + timedelta(days=1)]
                async with BulkSessions(self._database) as bulk:
                    await bulk.upsert(["session_hash", "user_id", "use_time", "end_time"], [row])
            case _:
                await run(self._database, *self.statement())

    def statement(self) -> tuple[str, list[str]]:
        """Returns what another program sends to add it."""
        if self._way == "SQL update":
            return UPDATE, [self._user, hash_of(self.session_id)]
        return INSERT, [hash_of(self.session_id), self._user]


async def alive(database: str, session_id: str) -> bool:
    query = "SELECT FROM cache_sidecar.sessions WHERE session_hash = %s AND delete_time IS NULL"
    async with await psycopg.AsyncConnection.connect(database) as connection:
        return (await connection.execute(query, [hash_of(session_id)])).rowcount == 1


async def waiting(database: str, count: int) -> None:
    """Returns when so many wait for a lock."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:

        async def do_wait() -> bool:
            return (await connection.execute(WAITING)).rowcount == count

        await until(do_wait)


@asynccontextmanager
async def open_transaction(database: str, statement: str, parameters: list[Any]) -> AsyncIterator[None]:
    """A statement of another program, committed at the end."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute(statement, parameters)  # type: ignore[arg-type]
        yield


@pytest.mark.parametrize("way", ADDITIONS)
async def test_a_session_that_is_added_while_all_are_ended_comes_after_that(
    customers: tuple[Customer, Customer], database: str, way: str
) -> None:
    """Otherwise it would be told before, and alive after; with what is changed in between, no order explains both."""
    user = new_user()
    old, addition = await customers[0].create(user), Addition(customers[1], database, user, way)
    await addition.prepare()
    async with open_transaction(database, LOCK, [hash_of(old)]):
        ending = asyncio.create_task(customers[0].log_out_everywhere(user))
        await waiting(database, 1)
        adding = asyncio.create_task(addition())
        await waiting(database, 2)
    assert await ending == 1
    await adding
    assert [await alive(database, id) for id in (old, addition.session_id)] == [False, True]


@pytest.mark.parametrize("way", ["SQL insert", "SQL update"])
async def test_a_session_whose_addition_is_under_way_is_ended(
    customers: tuple[Customer, Customer], database: str, way: str
) -> None:
    user = new_user()
    addition = Addition(customers[1], database, user, way)
    await addition.prepare()
    async with open_transaction(database, *addition.statement()):
        ending = asyncio.create_task(customers[0].log_out_everywhere(user))
        await waiting(database, 1)
    assert await ending == 1
    assert not await alive(database, addition.session_id)


async def test_nobody_waits_for_the_end_of_somebody_elses_sessions(customers: tuple[Customer, Customer], database: str) -> None:
    user = new_user()
    old = await customers[0].create(user)
    async with open_transaction(database, LOCK, [hash_of(old)]):
        ending = asyncio.create_task(customers[0].log_out_everywhere(user))
        await waiting(database, 1)
        # One in 1,024 users shares the lock.
        ((other,),) = await run(
            database,
            "SELECT name FROM unnest(%s::text[]) AS name WHERE hashtext(name) & 1023 <> hashtext(%s) & 1023 LIMIT 1",
            [[new_user(), new_user(), new_user()], user],
        )
        assert (await customers[1].session(await customers[1].create(other))).session.user_id == other
        await customers[1].session(await customers[1].create())
    await ending


async def test_a_rotation_of_a_session_that_becomes_another_users_waits_for_that_user(
    customers: tuple[Customer, Customer], database: str
) -> None:
    """It has read whose the session is, and waits for the row: so it begins again, with the other user."""
    users = [new_user(), new_user()]
    old, theirs = await customers[0].create(users[0]), await customers[0].create(users[1])
    async with open_transaction(database, LOCK, [hash_of(theirs)]):
        async with open_transaction(database, UPDATE, [users[1], hash_of(old)]):
            rotating = asyncio.ensure_future(
                customers[0].sessions.RotateSession(pb.RotateSessionRequest(session_id=old, request_id=new_request()))
            )
            await waiting(database, 1)
            ending = asyncio.create_task(customers[1].log_out_everywhere(users[1]))
            await waiting(database, 2)
        await waiting(database, 2)
    assert await ending == 2
    assert (await refused(rotating)).reason == "NOT_FOUND"
