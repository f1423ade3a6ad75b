"""Waiting for PostgreSQL to say that something changed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.store.listener import Listener
from tests.proxy import Proxy
from tests.sidecars import until
from tests.stores import INSERT, run

NEVER = 3600.0


@pytest.fixture
async def listener(database: str) -> AsyncIterator[Listener]:
    listening = Listener(database)
    await listening.wait(0.0)
    yield listening
    await listening.close()


async def within(work: asyncio.Future[None]) -> None:
    async with asyncio.timeout(10):
        await work


async def test_a_change_ends_the_wait(listener: Listener, database: str) -> None:
    waiting = asyncio.create_task(listener.wait(NEVER))
    await asyncio.sleep(0)
    await run(database, INSERT, ["a", "Sofa"])
    await within(waiting)


async def test_a_change_between_two_waits_is_not_lost(listener: Listener, database: str) -> None:
    for id in "abc":
        await run(database, INSERT, [id, "Sofa"])
    await within(asyncio.create_task(listener.wait(NEVER)))


async def test_without_a_change_it_ends_after_its_time(listener: Listener) -> None:
    await within(asyncio.create_task(listener.wait(0.01)))


async def test_other_channels_do_not_end_the_wait(listener: Listener, database: str) -> None:
    waiting = asyncio.create_task(listener.wait(NEVER))
    await run(database, "NOTIFY something_else")
    await run(database, "SELECT 1")
    assert not waiting.done()
    await run(database, "NOTIFY cache_sidecar_outbox")
    await within(waiting)


async def test_a_wait_that_is_cancelled_leaves_the_next(listener: Listener, database: str) -> None:
    waiting = asyncio.create_task(listener.wait(NEVER))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    again = asyncio.create_task(listener.wait(NEVER))
    await asyncio.sleep(0)
    await run(database, "NOTIFY cache_sidecar_outbox")
    await within(again)


async def test_a_server_that_is_away_costs_the_time_and_no_more() -> None:
    listening = Listener("postgresql://nobody@127.0.0.1:1/none")
    await within(asyncio.create_task(listening.wait(0.01)))
    await listening.close()


async def test_a_broken_connection_is_made_again(database: str) -> None:
    target = database.rpartition("@")[2].partition("/")[0]
    async with Proxy(target) as proxy:
        dsn = database.replace(target, proxy.address)
        listening = Listener(dsn)
        await listening.wait(0.0)
        proxy.cut()
        await within(asyncio.create_task(listening.wait(0.01)))
        await proxy.heal()
        await listening.wait(0.0)
        waiting = asyncio.create_task(listening.wait(NEVER))
        await until(lambda: listening._connection is not None)
        await run(database, "NOTIFY cache_sidecar_outbox")
        await within(waiting)
        await listening.close()


async def test_closing_twice_is_fine(listener: Listener) -> None:
    await listener.close()
    await listener.close()
