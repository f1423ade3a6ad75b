"""What the sidecar needs of Redis is what the guide says: nothing was refused, and less would not do."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis
from redis.exceptions import MovedError, NoPermissionError, ResponseError

from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.redis.scripts import SCRIPTS
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support import acl
from tests.support.shop import L1, L2, Open


async def test_the_user_of_the_guide_may_do_what_the_sidecar_does(
    open_shop: Open, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_shop() as first, open_shop() as second:
        made = await first.create()
        assert (await second.get(made.product_id)).cache.source == L2
        assert (await second.get(made.product_id)).cache.source == L1
        await first.products.DeleteProduct(pb.DeleteProductRequest(product_id=made.product_id))
        await first.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=["any"]))
        await first.admin.Invalidate(admin.InvalidateRequest(dataset="product", all=True))
    assert await acl.refusals(valkey_cluster, namespace) == []


async def test_it_may_not_touch_what_is_not_the_sidecars(
    valkey_cluster: ValkeyCluster, namespace: str, open_shop: Open
) -> None:
    async with open_shop(
        namespace=f"{namespace}x", redis_username=namespace, redis_password=acl.PASSWORD, trusted=False
    ) as shop:
        await acl.allow(valkey_cluster, namespace)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shop.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=["any"]))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await acl.refusals(valkey_cluster, namespace) != []


def attempts(ours: str, theirs: str) -> Iterator[tuple[Any, ...]]:
    """What another tenant may try against a namespace that is not theirs."""
    key, counter, channel = f"{ours}:product:{{00}}:x", f"{ours}:seq:{{00}}", f"{ours}:inv:{{00}}"
    own_key, own_counter = f"{theirs}:product:{{00}}:x", f"{theirs}:seq:{{00}}"
    evil = "#!lua name=evil\nredis.register_function('evil', function() return 'evil' end)"
    yield from [("GET", key), ("GETRANGE", key, 0, -1), ("MGET", key), ("SET", key, "x"), ("SETRANGE", key, 0, "x")]
    yield from [("INCR", counter), ("PEXPIRE", key, 1), ("UNLINK", key)]
    yield from [("SPUBLISH", channel, "1 0000000000000000 product x"), ("PUBLISH", channel, "x"), ("SSUBSCRIBE", channel)]
    yield from [("FUNCTION", "LOAD", "REPLACE", evil), ("FUNCTION", "FLUSH"), ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL")]
    yield from [("EVAL", "return redis.call('GET', KEYS[1])", 1, key), ("FLUSHALL",), ("KEYS", "*"), ("DUMP", key)]
    yield from [("CONFIG", "GET", "*"), ("ACL", "LIST"), ("MONITOR",), ("CLIENT", "LIST")]
    yield from [("COPY", key, own_key), ("RENAME", key, own_key), ("SORT", key), ("MIGRATE", "h", 1, key, 0, 1)]
    # Our own scripts run with the rights of whoever calls them, also for keys and channels that a call only passes.
    change, read = SCRIPTS["put_if_newer"], SCRIPTS["read"]
    yield change(key, own_counter, "0" * 20, 1000, channel, "product x", keys=2)
    yield change(own_key, own_counter, "f" * 20, 1000, channel, "product x", keys=2)
    yield SCRIPTS["touch"](key, *["0"] * 7, keys=1)
    yield SCRIPTS["drop"](key, counter, channel, "product x", keys=2)
    yield read(key, "0" * 20, 1000, keys=1)
    yield read(own_key, "0" * 20, 1000, key, keys=1)


async def test_another_tenant_of_the_same_redis_neither_reads_nor_changes_anything(
    open_shop: Open, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    """Two users as the guide makes them, one per namespace: each tries all it can against the other."""
    other = f"{namespace}-other"
    await acl.allow(valkey_cluster, other)
    async with open_shop() as shop:
        made = await shop.create(title="ours")
        for mine, theirs in ((namespace, other), (other, namespace)):
            for attempt in attempts(theirs, mine):
                replies = [await as_user(node, mine, attempt) for node in await valkey_cluster.primaries()]
                # Nodes send calls for the tenant's own keys on to the one that has them.
                replies = [reply for reply in replies if not isinstance(reply, MovedError)]
                assert replies, attempt
                assert all(map(is_refusal, replies)), (attempt, replies)
        # Whatever a tenant loads has a digest of its own: there is no name to take.
        for script in SCRIPTS.values():
            source = script.source.replace("return ", "return 'evil' or ", 1)
            assert await as_user(valkey_cluster.nodes[0], other, ("SCRIPT", "LOAD", source)) != script.digest
        async with open_shop() as second:
            assert (await second.get(made.product_id)).product.title == "ours"
            assert (await second.get(made.product_id)).cache.source == L1


def is_refusal(reply: Any) -> bool:
    if isinstance(reply, ResponseError):
        return isinstance(reply, NoPermissionError) or "ACL failure" in str(reply)
    # A script that reads several keys answers nothing for those that it may not read.
    return isinstance(reply, list) and reply[1:] == [None]


async def as_user(node: ValkeyServer, user: str, command: tuple[Any, ...]) -> Any:
    async with Redis(port=node.port, username=user, password=acl.PASSWORD, driver_info=None) as client:
        try:
            return await client.execute_command(*command)
        except ResponseError as error:
            return error
