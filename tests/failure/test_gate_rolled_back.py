"""A failover takes Redis back to when everything was sold out: the gate is rebuilt from PostgreSQL, by way of the relay."""

import asyncio
from functools import partial

import pytest

from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1 import cache_pb2
from tests.failure.inventory_stack import NAMESPACE, InventoryStack
from tests.support.stockroom import Stockroom
from tests.support.until import until

PRODUCT = "given-back"


@pytest.mark.timeout(120)
async def test_what_a_failover_forgot_is_told_again(stack: InventoryStack) -> None:
    loop = asyncio.get_running_loop()
    async with stack.rooms() as rooms:
        await rooms[0].set(PRODUCT, 1)
        reservation = await rooms[0].reserve({PRODUCT: 1})
        primary = await stack.primary_of(PRODUCT)
        replica = await stack.replica_of(primary)
        sold_out = await _version_in(primary)
        probe = await _beside(stack, primary)
        await rooms[0].set(probe, 1)
        await until(lambda: _is_version(replica, sold_out))
        await _cut_off(primary, replica)
        await rooms[0].release(reservation.reservation_id)
        assert await _version_in(primary) > sold_out
        primary.kill()
        killed_at = loop.time()
        replica.resume()
        # Nobody told it of the release, and soon it is the one that counts.
        assert await _version_in(replica) == sold_out
        # Whoever reads it while Redis is away reads PostgreSQL, and mends it: so nobody does before every sidecar is back.
        await until(lambda: stack.is_primary(replica))
        for room in rooms:
            await until(partial(_is_in_redis, room, probe), seconds=60)
        was_back = loop.time()
        await until(partial(_is_in_redis, rooms[1], PRODUCT), seconds=60)
        print(f"Redis back {was_back - killed_at:.2f} s, right {loop.time() - killed_at:.2f} s after the primary's death")
        assert (await rooms[1].reserve({PRODUCT: 1})).items[0].quantity == 1


async def _beside(stack: InventoryStack, primary: ValkeyServer) -> str:
    """Returns another product that the node holds."""
    number = 0
    while await stack.primary_of(f"beside-{number}") is not primary:
        number += 1
    return f"beside-{number}"


async def _is_in_redis(room: Stockroom, product_id: str) -> bool:
    found = await room.read(product_id)
    return found.cache.source == cache_pb2.SOURCE_L2 and found.inventory.available == 1


async def _cut_off(primary: ValkeyServer, replica: ValkeyServer) -> None:
    """Stops a replica and ends its connection: what comes now is not even on its way when the primary dies."""
    replica.pause()
    async with primary.client() as client:
        await client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")


async def _is_version(node: ValkeyServer, version: str) -> bool:
    return await _version_in(node) == version


async def _version_in(node: ValkeyServer) -> str:
    async with node.client() as client:
        await client.execute_command("READONLY")
        return str(await client.getrange(KeyNames(NAMESPACE).key("inventory", PRODUCT), 0, 15))
