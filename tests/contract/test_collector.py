"""Python's garbage collector in a sidecar under load: it must not walk what a sidecar is built of, again and again."""

import asyncio
from functools import partial
from pathlib import Path

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from cache_sidecar.v1.cart_service_pb2 import GetCartRequest
from tests.bench.load import run_load
from tests.bench.stack import free_port
from tests.support.launch import channel_to, process, serving
from tests.support.shop import Shop

CALLS, IN_FLIGHT = 10_000, 256
GET_CART = "/cache_sidecar.v1.CartService/GetCart"


async def collections(address: str) -> list[int]:
    """Returns how many collections there were, by generation."""
    async with channel_to(address) as channel:
        reply = await AdminServiceStub(channel).GetStats(pb.GetStatsRequest())
    assert [row.generation for row in reply.collections] == [0, 1, 2]
    assert all((row.longest_pause.ToNanoseconds() > 0) == (row.count > 0) for row in reply.collections)
    return [row.count for row in reply.collections]


async def test_calls_make_no_full_collection_due(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, tmp_path: Path, engine: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "engine": engine,
        "listen_address": address,
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": database,
        "namespace": namespace,
    }
    payloads = [GetCartRequest(user_id=f"user-{number % 100}").SerializeToString() for number in range(100)]
    async with process("serve", tmp_path, settings):
        await serving(address)
        load = partial(run_load, address, GET_CART, payloads, connections=1, in_flight=IN_FLIGHT, seconds=0.5)
        await asyncio.to_thread(load)
        before = await collections(address)
        served = 0
        while served < CALLS:
            result = await asyncio.to_thread(load)
            # On a slow machine, so many calls at once may be too many.
            assert all("overloaded" in reason for reason in result.errors), result.errors
            served += result.calls
        after = await collections(address)
    assert after[2] - before[2] == 0, f"{before} -> {after}"


async def test_a_sidecar_counts_collections_while_it_runs(shop: Shop) -> None:
    import gc  # noqa: PLC0415

    before = await collections(shop.address)
    for generation in range(3):
        gc.collect(generation)
    after = await collections(shop.address)
    assert all(now > then for then, now in zip(before, after, strict=True))
