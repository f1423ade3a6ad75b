"""Python's garbage collector in a sidecar under load: it must not walk what a sidecar is built of, again and again."""

import asyncio
from pathlib import Path

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from cache_sidecar.v1.cart_service_pb2 import GetCartRequest
from tests.bench.load import fetch
from tests.bench.stack import free_port
from tests.contract.shop import Shop
from tests.sidecars import channel_to, process, serving

CALLS, IN_FLIGHT = 10_000, 256


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
    payloads = [GetCartRequest(user_id=f"user-{number % 100}").SerializeToString() for number in range(CALLS)]
    async with process("serve", tmp_path, settings):
        await serving(address)
        await asyncio.to_thread(fetch, address, "/cache_sidecar.v1.CartService/GetCart", payloads[:100])
        before = await collections(address)
        for start in range(0, CALLS, 1000):
            await asyncio.to_thread(
                fetch, address, "/cache_sidecar.v1.CartService/GetCart", payloads[start : start + 1000], in_flight=IN_FLIGHT
            )
        after = await collections(address)
    assert after[2] - before[2] == 0, f"{before} -> {after}"


async def test_a_sidecar_counts_collections_while_it_runs(shop: Shop) -> None:
    import gc  # noqa: PLC0415

    before = await collections(shop.address)
    for generation in range(3):
        gc.collect(generation)
    after = await collections(shop.address)
    assert all(now > then for then, now in zip(before, after, strict=True))
