"""What sidecar and relay log while everything breaks under callers that leave: JSON, line by line, and little of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from cache_sidecar.v1.cart_service_pb2 import AddCartItemRequest
from tests.support.acl import PASSWORD, rules
from tests.support.customers import Customer, item
from tests.support.engine_params import ENGINES
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Process, Sidecar, process, serving
from tests.support.proxy import Proxy
from tests.support.shop import Shop
from tests.support.until import until

# Lines of each process: a start and an end, and of each outage one warning and one line when all is well again, of each
# dependency that meets it. One line for each call that fails would be thousands.
MOST_LINES = 120
# Calls while each outage lasts, the most impatient of which leave before anything can be answered.
CALLS = 400
CALLERS = 40
TIMEOUTS = (0.002, 0.01, 0.05, 2.0)
# Limit for a condition on a busy machine, in seconds.
PATIENCE = 60.0


class Ground:
    """A sidecar and a relay as processes, behind proxies, on servers that break."""

    def __init__(self, server: ValkeyServer, redis: Proxy, store: Proxy, database: str) -> None:
        self.server, self.redis, self.store, self.database = server, redis, store, database
        self.shop: Shop
        self.customer: Customer
        self.processes: list[Process] = []

    async def acl(self, *changes: str) -> None:
        async with self.server.client() as client:
            await client.execute_command("ACL", "SETUSER", "shop", *changes)

    async def sql(self, statement: str) -> None:
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            await connection.execute(statement)  # type: ignore[arg-type]  # of this file

    async def call(self, number: int) -> None:
        """Calls once, whatever comes of it."""
        timeout = TIMEOUTS[number % len(TIMEOUTS)]
        user, id = f"user-{number % 10}", f"p-{number % 50}"
        add: dict[str, Any] = {"user_id": user, "item": item("a"), "request_id": str(uuid4())}
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: self.shop.products.GetProduct(pb.GetProductRequest(product_id=id), timeout=timeout),
            lambda: self.shop.products.UpdateProduct(
                pb.UpdateProductRequest(product={"product_id": id, "title": str(number)}, update_mask={"paths": ["title"]}),
                timeout=timeout,
            ),
            lambda: self.customer.carts.AddCartItem(AddCartItemRequest(**add), timeout=timeout),
        ]
        with contextlib.suppress(grpc.aio.AioRpcError):
            await calls[number % len(calls)]()

    async def load(self) -> None:
        """Calls, many at a time."""
        numbers = iter(range(CALLS))

        async def caller() -> None:
            for number in numbers:
                await self.call(number)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def watch(self) -> None:
        """Watches products, again when that ends."""
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in self.shop.products.WatchProducts(pb.WatchProductsRequest()):
                    pass
            await asyncio.sleep(0.05)

    async def is_well(self) -> bool:
        """Whether a write is acknowledged, and nothing is degraded."""
        try:
            await self.shop.create()
            return not (await self.shop.admin.GetStats(GetStatsRequest())).degradations
        except grpc.aio.AioRpcError:
            return False


@pytest.fixture(params=ENGINES)
async def ground(
    request: pytest.FixtureRequest,
    processes: Processes,
    choose_ports: ChoosePorts,
    postgres: Postgres,
    database: str,
    namespace: str,
    tmp_path: Path,
) -> AsyncIterator[Ground]:
    redis_port, port = choose_ports(2)
    server = ValkeyServer(processes, processes.state.path / f"valkey-{redis_port}", redis_port)
    await server.start()
    async with Proxy(server.address) as redis, Proxy(f"127.0.0.1:{postgres.port}") as store:
        running = Ground(server, redis, store, database)
        await running.acl("reset", *rules(namespace))
        config = {
            "redis_nodes": redis.address,
            "redis_mode": "single",
            "redis_username": "shop",
            "redis_password": PASSWORD,
            "postgres_catalog": f"{database.partition('@')[0]}@{store.address}/{database.rpartition('/')[2]}",
            "namespace": namespace,
            "postgres_timeout": 5.0,
            "drain_seconds": 1.0,
            "log_format": "json",
            "listen_address": f"127.0.0.1:{port}",
            "engine": request.param,
        }
        async with (
            process("relay", tmp_path, config) as relay,
            process("serve", tmp_path, config) as sidecar,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            await serving(f"127.0.0.1:{port}", seconds=PATIENCE)
            running.shop, running.customer = Shop(Sidecar("", channel)), Customer(Sidecar("", channel))
            running.processes = [relay, sidecar]
            yield running
        await server.stop()


async def _redis_away(ground: Ground) -> None:
    ground.redis.cut()


async def _redis_back(ground: Ground) -> None:
    await ground.redis.heal()


async def _redis_refuses(ground: Ground) -> None:
    await ground.acl("-evalsha")


async def _redis_allows(ground: Ground) -> None:
    await ground.acl("+evalsha")


async def _postgres_away(ground: Ground) -> None:
    ground.store.cut()


async def _postgres_back(ground: Ground) -> None:
    await ground.store.heal()


async def _postgres_refuses(ground: Ground) -> None:
    await ground.sql("ALTER TABLE cache_sidecar.outbox RENAME TO away")


async def _postgres_allows(ground: Ground) -> None:
    await ground.sql("ALTER TABLE cache_sidecar.away RENAME TO outbox")


OUTAGES = [
    (_redis_away, _redis_back),
    (_redis_refuses, _redis_allows),
    (_postgres_away, _postgres_back),
    (_postgres_refuses, _postgres_allows),
]


@pytest.mark.timeout(300)
async def test_every_line_is_json_and_there_are_few(ground: Ground) -> None:
    await until(ground.is_well, seconds=PATIENCE)
    for number in range(50):
        await ground.shop.create(f"p-{number}")
    watching = [asyncio.create_task(ground.watch()) for _ in range(3)]
    for begin, end in OUTAGES:
        await until(ground.is_well, seconds=PATIENCE)
        await begin(ground)
        await ground.load()
        await end(ground)
    await until(ground.is_well, seconds=PATIENCE)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    for started in ground.processes:
        lines = [json.loads(line) for line in started.log.read_text().splitlines()]
        assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
        assert not [line for line in lines if line["level"] in {"error", "critical"} or "exception" in line]
        assert {line.get("what") for line in lines if line["level"] == "warning"} >= {"redis", "postgresql"}
        # The test itself asks for statistics until all is well, and each of these calls is audited.
        few = [line for line in lines if not line.get("audit")]
        assert len(few) < MOST_LINES, f"{len(few)} lines"
        assert PASSWORD not in started.log.read_text()
