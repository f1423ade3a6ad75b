"""The end of a sidecar: calls in progress finish, streams are told, nothing new begins."""

import asyncio
import time
from datetime import datetime, timedelta

import grpc
import psycopg
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_product_watch import METHOD, insert, watching
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import Customer
from tests.support.databases import locked
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Shop, refusal
from tests.support.until import DEADLINE, until


async def test_a_call_in_progress_finishes_and_no_other_begins(open_shop: Open, database: str) -> None:
    async with open_shop(drain_seconds=20, postgres_timeout=30) as shop:
        id = (await shop.create()).product_id
        async with locked(database):
            read = asyncio.ensure_future(shop.get(id, bypass=True))
            write = asyncio.ensure_future(shop.update(id, title="written while draining"))
            await until(lambda: inside.stack_of(shop.app.server).admission.inside == 2)
            draining = asyncio.ensure_future(shop.app.server.drain())
            await until(lambda: inside.stack_of(shop.app.server).is_draining)
            async with grpc.aio.insecure_channel(shop.address) as channel:
                await until(lambda: is_refused(Shop(type(shop.sidecar)(shop.address, channel)), id))
            assert not read.done()
            assert not draining.done()
        assert (await read).product.product_id == id
        assert (await write).title == "written while draining"
        await asyncio.wait_for(draining, DEADLINE)


async def is_refused(shop: Shop, id: str) -> bool:
    try:
        await shop.products.GetProduct(pb.GetProductRequest(product_id=id), timeout=1)
    except grpc.aio.AioRpcError as error:
        return error.code() == StatusCode.UNAVAILABLE
    return False


async def test_a_call_that_takes_longer_than_the_grace_is_cut_off(open_shop: Open, database: str) -> None:
    async with open_shop(drain_seconds=0.2, postgres_timeout=5) as shop:
        id = (await shop.create()).product_id
        async with locked(database):
            read = asyncio.ensure_future(shop.get(id, bypass=True))
            await until(lambda: inside.stack_of(shop.app.server).admission.inside == 1)
            await asyncio.wait_for(shop.app.server.drain(), DEADLINE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read
            assert caught.value.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}


async def test_streams_are_told_and_end_without_waiting_for_the_grace(open_shop: Open) -> None:
    async with open_shop(drain_seconds=600) as shop, watching(shop) as first, watching(shop) as second:
        created = await shop.create()
        await first.told(1)
        await asyncio.wait_for(shop.app.server.drain(), DEADLINE)
        for watch in (first, second):
            told = refusal(await watch.ended())
            assert told.code == StatusCode.UNAVAILABLE
            assert (told.reason, told.retry_after) == ("DRAINING", 0.1)
        assert [change.product_id for change in first.changes] == [created.product_id]


async def test_a_stream_whose_reader_is_stuck_holds_the_sidecar_up_no_longer_than_the_grace(
    open_shop: Open, database: str
) -> None:
    async with open_shop(drain_seconds=0.5) as shop, RawConnection.open(shop.address, stream_window=100) as raw:
        stream = await raw.begin(METHOD)
        await raw.send(stream, message(b""), end=True)
        await until(lambda: inside.watchers_of(shop.app.store("catalog").changes))
        async with watching(shop) as watch:
            await insert(database, 100, "p")
            await until(lambda: len(raw.received(stream).body) >= 100)
            await asyncio.wait_for(shop.app.server.drain(), DEADLINE)
            told = refusal(await watch.ended())
            assert (told.code, told.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
        await until(lambda: not inside.watchers_of(shop.app.store("catalog").changes))


async def test_a_stream_asked_for_while_draining_is_refused(open_shop: Open, database: str) -> None:
    async with open_shop(drain_seconds=20, postgres_timeout=30) as shop:
        id = (await shop.create()).product_id
        async with locked(database):
            read = asyncio.ensure_future(shop.get(id, bypass=True))
            await until(lambda: inside.stack_of(shop.app.server).admission.inside == 1)
            inside.stack_of(shop.app.server).drain()  # as draining begins, before the server refuses calls by itself
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await shop.products.WatchProducts(pb.WatchProductsRequest()).read()
            assert refusal(caught.value).reason == "DRAINING"
        await read


async def test_a_health_check_on_an_open_connection_says_so(open_shop: Open, database: str) -> None:
    async with open_shop(drain_seconds=20, postgres_timeout=30) as shop:
        health = health_pb2_grpc.HealthStub(shop.channel)
        inside.health_of(shop.app.server).drain()
        reply = await health.Check(health_pb2.HealthCheckRequest(service="cache_sidecar.v1.ProductService"))
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_uses_of_sessions_that_wait_for_their_window_reach_postgresql(open_shop: Open, database: str) -> None:
    clock = ManualClock(time.time())
    async with open_shop(clock=clock) as shop:
        customer = Customer(shop.sidecar)
        session_id = await customer.create("somebody")
        (before,) = await use_times(database)
        clock.advance(1.0)
        await customer.touch(session_id)
        assert await use_times(database) == [before], "many uses cost one write, later"
    (after,) = await use_times(database)
    assert timedelta(seconds=0.9) < after - before < timedelta(seconds=1.1)  # Redis counts uses in whole milliseconds


async def use_times(database: str) -> list[datetime]:
    """Returns when each session was last used, as far as PostgreSQL knows."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        return [
            moment for (moment,) in await (await connection.execute("SELECT use_time FROM cache_sidecar.sessions")).fetchall()
        ]
