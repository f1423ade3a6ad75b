"""kill -9 of a sidecar at each step of a change of a cart: what was acknowledged is there, what is tried again is there once.

The step is held from outside: a lock on the row, a proxy that holds what Redis answers, one that holds what the caller gets.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc.aio import AioRpcError
from redis.asyncio import Redis

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.scripts import SCRIPTS
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart
from tests.support.customers import Customer, cart_key, item, lines, new_request, new_user
from tests.support.free_ports import ChoosePorts, later_ports
from tests.support.launch import Process, Sidecar, process, serving
from tests.support.proxy import Proxy
from tests.support.until import until

LONG = 30.0
"Seconds: longer than any step is held."


@pytest.fixture(scope="module")
async def redis_server(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyServer]:
    (port,) = choose_ports(1)
    server = ValkeyServer(processes, processes.state.path / "valkey-carts", port)
    await server.start()
    yield server
    await server.stop()


@dataclass
class Scene:
    """A sidecar that will be killed, between proxies, and one that will be asked again."""

    victim: Process
    customer: Customer
    other: Customer
    to_redis: Proxy
    to_victim: Proxy
    redis: Redis
    database: str
    namespace: str

    async def version(self, user: str) -> int:
        """Returns the version of a cart in PostgreSQL."""
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            cursor = await connection.execute("SELECT version FROM cache_sidecar.carts WHERE user_id = %s", [user])
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

    async def version_in_redis(self, user: str) -> int:
        """Returns the version of a cart in Redis."""
        data = await self.redis.get(cart_key(self.namespace, user))
        record = codec.decode(data) if data else None
        return record.version if record else 0

    async def kill(self) -> None:
        """Ends the sidecar at once."""
        self.victim.process.kill()
        await self.victim.process.wait()


@pytest.fixture
async def scene(redis_server: ValkeyServer, database: str, namespace: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        to_redis = await stack.enter_async_context(Proxy(redis_server.address))
        victim, address = await stack.enter_async_context(_sidecar(to_redis.address, database, namespace, tmp_path))
        to_victim = await stack.enter_async_context(Proxy(address))
        _, other = await stack.enter_async_context(_sidecar(redis_server.address, database, namespace, tmp_path))
        yield Scene(
            victim,
            await stack.enter_async_context(_customer(to_victim.address)),
            await stack.enter_async_context(_customer(other)),
            to_redis,
            to_victim,
            await stack.enter_async_context(Redis.from_url(f"redis://{redis_server.address}")),
            database,
            namespace,
        )


@contextlib.asynccontextmanager
async def _sidecar(redis: str, database: str, namespace: str, folder: Path) -> AsyncIterator[tuple[Process, str]]:
    (port,) = later_ports(1)
    config = {
        "listen_address": f"127.0.0.1:{port}",
        "redis_nodes": redis,
        "redis_mode": "single",
        "redis_timeout": 10.0,
        "postgres_catalog": database,
        "postgres_timeout": LONG,
        "namespace": namespace,
        "drain_seconds": 1.0,
    }
    async with process("serve", folder, config) as started:
        await serving(config["listen_address"])  # type: ignore[arg-type]
        yield started, str(config["listen_address"])


@contextlib.asynccontextmanager
async def _customer(address: str) -> AsyncIterator[Customer]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield Customer(Sidecar(address, channel))


@dataclass
class Change:
    """A change that is under way, and how to try it again."""

    user: str
    request: pb.AddCartItemRequest
    before: Cart
    call: "asyncio.Future[Any]"

    async def fails(self) -> None:
        """Whoever asked for it hears nothing."""
        with pytest.raises(AioRpcError) as caught:
            await self.call
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def _begin(scene: Scene) -> Change:
    """Begins to add to a cart that has a line; whatever has to be held is held already."""
    user = new_user()
    before = await scene.other.add(user, item("a"))
    assert await scene.customer.cart(user) == before
    request = pb.AddCartItemRequest(user_id=user, item=item("b", 2), request_id=new_request())
    return Change(user, request, before, None)  # type: ignore[arg-type]  # begun by `_go`


def _go(scene: Scene, change: Change) -> None:
    change.call = asyncio.ensure_future(scene.customer.carts.AddCartItem(change.request))


async def _is_there_once(scene: Scene, change: Change) -> None:
    """Tries again elsewhere, twice: each time the change is acknowledged, and is there, once."""
    for _ in range(2):
        cart = (await scene.other.carts.AddCartItem(change.request)).cart
        assert lines(cart) == {"a": 1, "b": 2}
        assert await scene.other.cart(change.user) == cart
        assert await scene.other.cart(change.user, bypass=True) == cart


async def test_killed_before_the_commit(scene: Scene) -> None:
    change = await _begin(scene)
    async with await psycopg.AsyncConnection.connect(scene.database) as holder:
        await holder.execute("SELECT FROM cache_sidecar.carts WHERE user_id = %s FOR UPDATE", [change.user])
        _go(scene, change)
        await until(lambda: _waits_for_a_lock(scene))
        await scene.kill()
        await change.fails()
        assert await scene.other.cart(change.user, bypass=True) == change.before
    # PostgreSQL may finish the statement of a sidecar that is gone.
    await _is_there_once(scene, change)


async def test_killed_between_the_row_and_the_commit(scene: Scene) -> None:
    """The statement has changed the cart, and has not written the ledger yet."""
    change = await _begin(scene)
    async with await psycopg.AsyncConnection.connect(scene.database) as holder:
        await holder.execute(
            """INSERT INTO cache_sidecar.requests (scope, request_id, method, fingerprint, reply, ids, versions)
               VALUES (%s, %s, '', '', '', '{}', '{}')""",
            [f"user {change.user}", change.request.request_id],
        )
        _go(scene, change)
        await until(lambda: _waits_for_a_lock(scene))
        await scene.kill()
        await change.fails()
        assert await scene.other.cart(change.user, bypass=True) == change.before
        await holder.rollback()
    await _is_there_once(scene, change)


async def test_killed_after_the_commit_before_redis_heard(scene: Scene) -> None:
    change = await _begin(scene)
    before = await scene.version(change.user)
    scene.to_redis.stall()
    _go(scene, change)
    await until(lambda: _is_newer(scene, change.user, before))
    await scene.kill()
    await change.fails()
    scene.to_redis.cut()
    assert await scene.version_in_redis(change.user) == before
    await _is_there_once(scene, change)


async def test_killed_after_redis_heard_before_it_answered(scene: Scene) -> None:
    change = await _begin(scene)
    before = await scene.version(change.user)
    scene.to_redis.mute(once_asked=SCRIPTS["put_if_newer"].digest.encode())
    _go(scene, change)
    newer = await until(lambda: _is_newer(scene, change.user, before))
    await until(lambda: _redis_has(scene, change.user, newer))
    await scene.kill()
    await change.fails()
    assert lines(await scene.other.cart(change.user)) == {"a": 1, "b": 2}
    await _is_there_once(scene, change)


async def test_killed_after_the_reply_left_before_it_came(scene: Scene) -> None:
    change = await _begin(scene)
    before = await scene.version(change.user)
    scene.to_victim.mute()
    _go(scene, change)
    newer = await until(lambda: _is_newer(scene, change.user, before))
    await until(lambda: _redis_has(scene, change.user, newer))
    await until(lambda: scene.to_victim.held > 0)
    await scene.kill()
    scene.to_victim.cut()
    await change.fails()
    await _is_there_once(scene, change)


async def test_killed_after_the_reply(scene: Scene) -> None:
    change = await _begin(scene)
    _go(scene, change)
    cart = (await change.call).cart
    await scene.kill()
    assert await scene.other.cart(change.user) == cart
    await _is_there_once(scene, change)


async def _waits_for_a_lock(scene: Scene) -> bool:
    async with await psycopg.AsyncConnection.connect(scene.database, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = await cursor.fetchone()
        return row is not None and row[0] > 0


async def _is_newer(scene: Scene, user: str, version: int) -> int:
    """Returns the version of a cart if it is newer than that."""
    found = await scene.version(user)
    return found if found > version else 0


async def _redis_has(scene: Scene, user: str, version: int) -> bool:
    return await scene.version_in_redis(user) == version
