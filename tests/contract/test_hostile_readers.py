"""Clients that never read, that open connections and say nothing, or give up: memory stays bounded, others are served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import cart_service_pb2, inventory_service_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.bench import frames
from tests.support import inside
from tests.support.customers import Customer, item, lines, new_user
from tests.support.databases import locked
from tests.support.free_ports import ChoosePorts
from tests.support.launch import PATIENT, Sidecar, process, serving
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Shop, refused
from tests.support.stockroom import Stockroom
from tests.support.until import until

BATCH = "/cache_sidecar.v1.ProductService/BatchGetProducts"
WATCHES = {
    "/cache_sidecar.v1.ProductService/WatchProducts": pb.WatchProductsRequest(),
    "/cache_sidecar.v1.CartService/WatchCart": cart_service_pb2.WatchCartRequest(user_id="watched"),
    "/cache_sidecar.v1.InventoryService/WatchInventory": inventory_service_pb2.WatchInventoryRequest(product_ids=["p0"]),
}
SILENT = {
    "nothing": b"",
    "half a preface": frames.PREFACE[:10],
    "a preface": frames.PREFACE,
    "half a call": frames.PREFACE + frames.settings({}) + b"\0\0\xff\1\4\0\0\0\1",
}
OK, EXHAUSTED = 0, 8
MIB = 1024 * 1024


async def serves(shop: Shop) -> None:
    """Uses all that a shop needs, on a connection of its own."""
    id, user = (await shop.create()).product_id, new_user()
    assert (await shop.get(id)).product.product_id == id
    assert lines(await Customer(shop.sidecar).add(user, item(id))) == {id: 1}
    stock = Stockroom(shop.channel)
    await stock.set(id, 3)
    await stock.reserve({id: 1})
    assert (await stock.get(id)).available == 2


@contextlib.asynccontextmanager
async def apart(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, engine: str, port: int, folder: Path
) -> AsyncIterator[tuple[Shop, psutil.Process]]:
    """Runs a sidecar as a process, whose memory is its own."""
    config = {
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": database,
        "namespace": namespace,
        "engine": engine,
        "listen_address": f"127.0.0.1:{port}",
        "log_level": "error",
        **PATIENT,
    }
    async with process("serve", folder, config) as started:
        await serving(f"127.0.0.1:{port}")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Shop(Sidecar(f"127.0.0.1:{port}", channel)), psutil.Process(started.pid)


async def test_replies_that_nobody_reads_cost_bounded_memory(
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    engine: str,
    choose_ports: ChoosePorts,
    tmp_path: Path,
) -> None:
    calls, products = 300, 60
    async with apart(valkey_cluster, database, namespace, engine, *choose_ports(1), tmp_path) as (shop, process_):
        for number in range(products):
            await shop.create(f"p{number}", description="x" * 16_000)
        request = message(pb.BatchGetProductsRequest(product_ids=[f"p{n}" for n in range(products)]).SerializeToString())
        async with RawConnection.open(shop.address) as raw:
            size = len((await raw.call(BATCH, request)).body)
        assert size > 900_000
        before = process_.memory_info().rss
        async with RawConnection.open(shop.address, stream_window=0) as raw:
            streams: list[int] = []

            def waiting() -> list[int]:
                return [stream for stream in streams if not raw.received(stream).ended.is_set()]

            for _ in range(calls // 50):
                for _ in range(50):
                    streams.append(await raw.begin(BATCH))
                    await raw.send(streams[-1], request, end=True)
                # As many as fit into the bound of the engine, and one more.
                await until(lambda: len(waiting()) <= 8 * MIB // size + 2, seconds=60)
            assert {raw.received(stream).status for stream in streams if stream not in waiting()} == {EXHAUSTED}
            assert process_.memory_info().rss - before < 300 * MIB, "of 290, that C-core keeps twice"
            await serves(shop)
            left = waiting()
            assert left
            for stream in left:
                raw.allow(stream, 2 * size)
            for stream in left:
                reply = await raw.reply(stream)
                assert (reply.status, len(reply.body) > 900_000) == (OK, True)
            again = await raw.begin(BATCH)
            raw.allow(again, 2 * size)
            await raw.send(again, request, end=True)
            assert (await raw.reply(again)).status == OK, "what was read makes room"


async def test_stalled_watches_hold_nobody_up_and_end_with_their_connection(open_shop: Open) -> None:
    each = 10
    async with open_shop(max_streams=3 * each) as shop, RawConnection.open(shop.address, stream_window=0) as raw:
        await shop.create("p0")
        await Stockroom(shop.channel).set("p0", 1)
        for path, request in WATCHES.items():
            for _ in range(each):
                await raw.send(await raw.begin(path), message(request.SerializeToString()), end=True)
        await until(lambda: len(inside.streams_of(inside.stack_of(shop.app.server))) == 3 * each)
        path, request = next(iter(WATCHES.items()))
        assert await _refusal_of_stream(shop, path, request) == StatusCode.RESOURCE_EXHAUSTED
        customer, stock = Customer(shop.sidecar), Stockroom(shop.channel)
        for number in range(1, 31):
            await shop.update("p0", "title", title=f"mug {number}")
            await customer.replace("watched", item("p0", number))
            await stock.set("p0", number)
        await serves(shop)
        assert len(inside.streams_of(inside.stack_of(shop.app.server))) == 3 * each
        raw.abort()
        await until(lambda: not inside.streams_of(inside.stack_of(shop.app.server)))
        await until(lambda: not inside.watchers_of(shop.app.store("catalog").changes))


async def _refusal_of_stream(shop: Shop, path: str, request: Message) -> StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.channel.unary_stream(path)(request.SerializeToString()).read()
    return caught.value.code()


@pytest.mark.parametrize("said", SILENT.values(), ids=SILENT.keys())
async def test_connections_that_say_nothing_more_hold_nobody_up(open_shop: Open, said: bytes) -> None:
    async with open_shop() as shop:
        await serves(shop)
        host, _, port = shop.address.rpartition(":")
        files = psutil.Process().num_fds()
        opened = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(200)))
        for _, writer in opened:
            writer.write(said)
        await until(lambda: psutil.Process().num_fds() >= files + 350)  # both ends are here
        await serves(shop)
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await until(lambda: psutil.Process().num_fds() < files + 100)
        await serves(shop)


async def test_a_flood_of_calls_that_are_given_up_holds_nothing(open_shop: Open, database: str) -> None:
    async with open_shop(postgres_timeout=60) as shop:
        await shop.create("p0")
        user, customer = new_user(), Customer(shop.sidecar)
        await customer.add(user, item("p0"))
        admission, tasks = inside.stack_of(shop.app.server).admission, len(asyncio.all_tasks())
        request = pb.BatchGetProductsRequest(product_ids=["p0", "p1"])
        request.options.bypass = True
        async with locked(database):
            for _ in range(5):
                # As many as are admitted however slow the calls before them were.
                flood = [shop.products.BatchGetProducts(request) for _ in range(100)]
                await until(lambda: admission.inside == 100)
                for call in flood:
                    call.cancel()
                await asyncio.gather(*(asyncio.ensure_future(_gone(call)) for call in flood))
                await until(lambda: admission.inside == 0)
                assert lines(await customer.add(user, item("p0")))["p0"] > 1
        assert (await shop.get("p0", bypass=True)).product.product_id == "p0"
        assert (await refused(shop.get("p1", bypass=True))).code == StatusCode.NOT_FOUND
        await until(lambda: len(asyncio.all_tasks()) <= tasks + 5)


async def _gone(call: object) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await call  # type: ignore[misc]  # a call
