"""The end of a connection: too old, idle for too long, or its client is gone without a word."""

import asyncio

import psutil

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_product_watch import METHOD as WATCH
from tests.support import inside
from tests.support.databases import locked
from tests.support.proxy import Proxy
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Shop
from tests.support.until import DEADLINE, until

GET = "/cache_sidecar.v1.ProductService/GetProduct"
OK = 0
# Longer than any test takes.
LONG = 600.0


async def test_an_old_connection_ends_with_its_calls_and_the_next_serves(open_shop: Open, database: str) -> None:
    async with open_shop(max_connection_age=0.5, max_connection_age_grace=LONG, postgres_timeout=30) as shop:
        id = (await shop.create()).product_id
        request = message(pb.GetProductRequest(product_id=id, options={"bypass": True}).SerializeToString())
        async with RawConnection.open(shop.address) as old, locked(database):
            stream = await old.begin(GET)
            await old.send(stream, request, end=True)
            await until(lambda: old.told_to_go)
            async with RawConnection.open(shop.address) as next_one:
                assert (await next_one.call(GET, message(b""))).status is not None
            assert not old.received(stream).ended.is_set()
            assert not old.closed.is_set()
        async with RawConnection.open(shop.address) as old:
            async with locked(database):
                stream = await old.begin(GET)
                await old.send(stream, request, end=True)
                await until(lambda: old.told_to_go)
            assert (await old.reply(stream)).status == OK
            await asyncio.wait_for(old.closed.wait(), DEADLINE)


async def test_a_watch_on_an_old_connection_ends_after_the_grace(open_shop: Open) -> None:
    async with open_shop(max_connection_age=0.3, max_connection_age_grace=0.3) as shop:
        async with RawConnection.open(shop.address) as raw:
            stream = await raw.begin(WATCH)
            await raw.send(stream, message(b""), end=True)
            await until(lambda: inside.watchers_of(shop.app.store("catalog").changes))
            await raw.reply(stream)
            assert raw.told_to_go
        await until(lambda: not inside.watchers_of(shop.app.store("catalog").changes))


async def test_callers_notice_nothing_of_the_age(open_shop: Open) -> None:
    async with open_shop(max_connection_age=0.1, max_connection_age_grace=LONG) as shop:
        id = (await shop.create()).product_id
        async with RawConnection.open(shop.address) as raw:
            while not raw.closed.is_set():
                assert (await shop.get(id)).product.product_id == id


async def test_an_idle_connection_ends_and_one_with_a_call_stays(open_shop: Open) -> None:
    async with open_shop(max_connection_idle=0.4) as shop, RawConnection.open(shop.address) as busy:
        stream = await busy.begin(WATCH)
        await busy.send(stream, message(b""), end=True)
        await until(lambda: inside.watchers_of(shop.app.store("catalog").changes))
        for _ in range(2):
            async with RawConnection.open(shop.address) as idle:
                assert (await idle.call(GET, message(b""))).status is not None
                await asyncio.wait_for(idle.closed.wait(), DEADLINE)
                assert idle.told_to_go
        assert not busy.told_to_go
        assert not busy.received(stream).ended.is_set()


async def test_the_calls_of_a_client_that_vanished_end(open_shop: Open) -> None:
    async with (
        open_shop(keepalive_time=0.3, keepalive_timeout=0.3) as shop,
        Proxy(shop.address) as proxy,
        RawConnection.open(proxy.address) as gone,
        RawConnection.open(shop.address) as here,
    ):
        for raw in (gone, here):
            await raw.send(await raw.begin(WATCH), message(b""), end=True)
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 2)
        proxy.stall()  # its packets are lost: there is no FIN, and no answer
        await until(lambda: len(inside.watchers_of(shop.app.store("catalog").changes)) == 1)
        assert not here.closed.is_set(), "who answers stays"


async def test_so_does_the_connection_of_one_without_calls(open_shop: Open) -> None:
    async with (
        open_shop(keepalive_time=0.3, keepalive_timeout=0.3) as shop,
        Proxy(shop.address) as proxy,
        RawConnection.open(proxy.address) as gone,
    ):
        assert (await gone.call(GET, message(b""))).status is not None
        assert connections(shop) == 1
        proxy.stall()
        await until(lambda: connections(shop) == 0)


def connections(shop: Shop) -> int:
    """Returns how many the sidecar, which is in this process, has open."""
    port = int(shop.address.rpartition(":")[2])
    found = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in found)
