"""Two sidecars, two processes, one shop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Sidecar, process, relaying, serving, settings_for
from tests.support.shop import L1, L2, STORE, Shop, new_id, reads_redis
from tests.support.until import until


@pytest.fixture
async def shops(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, choose_ports: ChoosePorts, tmp_path: Path
) -> AsyncIterator[tuple[Shop, Shop]]:
    """Two sidecars as processes of their own."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = ",".join(valkey_cluster.addresses)
        await stack.enter_async_context(relaying(settings_for(nodes, database, namespace)))
        opened = []
        for port in choose_ports(2):
            address = f"127.0.0.1:{port}"
            config = {
                "redis_nodes": nodes,
                "postgres_catalog": database,
                "namespace": namespace,
                "listen_address": address,
                "local_admin": True,
                "redis_timeout": 5.0,  # or a busy machine makes them forget
            }
            await stack.enter_async_context(process("serve", tmp_path, config))
            await serving(address)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            shop = Shop(Sidecar(address, channel))
            await until(lambda shop=shop: remembers(shop))
            await until(lambda shop=shop: reads_redis(shop))
            opened.append(shop)
        yield opened[0], opened[1]


async def remembers(shop: Shop) -> bool:
    """Says whether a sidecar's memory may be used yet: it is once changes are heard."""
    id = (await shop.create()).product_id
    await shop.get(id)
    return await shop.source(id) == L1


async def test_a_product_travels_from_the_store_through_redis_into_both_memories(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    id = (await first.create()).product_id
    for shop in shops:
        await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="product", ids=[id]))
    assert await first.source(id) == STORE
    assert await first.source(id) == L1
    await until(lambda: is_filled(second, id))
    assert await second.source(id) == L1


async def is_filled(shop: Shop, id: str) -> bool:
    # The fill of Redis goes on behind the first reply; whoever comes too early reads the store.
    source = await shop.source(id)
    if source == STORE:
        await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="product", ids=[id]))
        return False
    return source == L2


async def test_an_update_through_one_is_seen_through_the_other_from_its_memory(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    created = await first.create(title="number 0")
    await second.get(created.product_id)
    assert (await second.get(created.product_id)).cache.source == L1
    for number in range(1, 11):
        writer, reader = (first, second) if number % 2 else (second, first)
        updated = await writer.update(created.product_id, title=f"number {number}")
        assert (await writer.get(created.product_id)).product == updated, "who wrote reads its own write at once"
        await until(lambda reader=reader, updated=updated: sees(reader, updated))
        reply = await reader.get(created.product_id)
        assert (reply.product, reply.cache.source) == (updated, L1)
        assert reply.cache.version == int(updated.etag, 16)


async def sees(shop: Shop, wanted: object) -> bool:
    return (await shop.get(wanted.product_id)).product == wanted  # type: ignore[attr-defined]


async def test_versions_never_go_back_on_either_sidecar(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    id = (await first.create()).product_id
    done = asyncio.Event()

    async def read(shop: Shop) -> int:
        seen, reads = 0, 0
        while not done.is_set() or reads < 50:
            version = (await shop.get(id)).cache.version
            assert version >= seen
            seen, reads = version, reads + 1
        return seen

    readers = [asyncio.ensure_future(read(shop)) for shop in shops for _ in range(3)]
    for number in range(60):
        last = await shops[number % 2].update(id, title=f"number {number}")
    for shop in shops:
        await until(lambda shop=shop: sees(shop, last))
    done.set()
    assert {await reader for reader in readers} == {int(last.etag, 16)}


async def test_a_watch_on_one_hears_what_the_other_writes(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    created = await first.create()
    call = second.products.WatchProducts(pb.WatchProductsRequest(after_version=int(created.etag, 16)))
    id = new_id()
    await first.create(id)
    start, change = await call.read(), await call.read()
    assert (start.product_id, start.kind) == ("", pb.CHANGE_KIND_WATCH_STARTED)
    assert (change.product_id, change.kind) == (id, pb.CHANGE_KIND_CREATED)
    call.cancel()
