"""What callers send of their customers is neither in a log nor in a metric, whatever becomes of the call.

Each method of every service gets canaries in all fields that have texts: in requests that are served, in such that are refused, in
bytes that are no message, in metadata, and while PostgreSQL or Redis is away or refuses a row. The sidecar and the relay log as much
as they can.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import admin_service_pb2_grpc as admin_grpc
from tests.contract.test_hostile_fuzz import IDS, RESERVATION_ID, SESSION_ID, STREAMS, valid
from tests.support import scrape
from tests.support.canaries import FORMED, PUBLIC, Canary, plant, shown
from tests.support.customers import Customer
from tests.support.engine_params import ENGINES
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Process, Sidecar, process, serving
from tests.support.proxy import Proxy
from tests.support.shop import Shop
from tests.support.stockroom import Stockroom
from tests.support.until import until

CUSTOMER, TOKEN = Canary("customer"), Canary("token")
METADATA = (("authorization", f"Bearer {TOKEN.token}"), ("x-customer-email", CUSTOMER.token), ("cookie", CUSTOMER.token))
# The policy and the level of the log are what operators set, and their changes are logged.
SETTINGS = {"UpdatePolicy", "UpdateLogLevel"}


class Ground:
    """A sidecar and a relay as processes, behind proxies."""

    def __init__(self, database: str, redis: Proxy, store: Proxy, processes: list[Process], metrics: list[str]) -> None:
        self.database, self.redis, self.store = database, redis, store
        self._processes, self._metrics = processes, metrics
        self.channel: grpc.aio.Channel
        self.session_id = ""
        self.reservation_id = ""

    async def sql(self, statement: str) -> None:
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            await connection.execute(statement)  # type: ignore[arg-type]  # of this file

    async def call_everything(self) -> int:
        """Sends each method's requests, and returns how many were served."""
        served = 0
        for path, template in valid(SESSION_ID, RESERVATION_ID).items():
            is_setting = path.rpartition("/")[2] in SETTINGS
            for keep, text in ((PUBLIC | FORMED, CUSTOMER.core), (PUBLIC, f"{CUSTOMER.core}\x00")):
                request = type(template)()
                request.CopyFrom(template)
                if "dataset" in request.DESCRIPTOR.fields_by_name:
                    request.dataset = "cart"  # type: ignore[attr-defined]  # whose ids are customers'
                if isinstance(request, admin.UpdateLogLevelRequest):
                    request.level = admin.LOG_LEVEL_DEBUG
                if not is_setting:
                    plant(request, text, keep=keep)
                data = request.SerializeToString().replace(SESSION_ID.encode(), self.session_id.encode())
                data = data.replace(RESERVATION_ID.encode(), self.reservation_id.encode())
                served += await self._is_served(path, data)
            await self._is_served(path, CUSTOMER.core.encode())
        return served

    async def _is_served(self, path: str, data: bytes) -> bool:
        try:
            if path in STREAMS:
                await self.channel.unary_stream(path)(data, timeout=0.2, metadata=METADATA).read()
            else:
                await self.channel.unary_unary(path)(data, timeout=10.0, metadata=METADATA)
        except grpc.aio.AioRpcError as error:
            return path in STREAMS and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return True

    async def said(self) -> str:
        """Returns all that was logged, and the metrics."""
        logs = [process.log.read_text() for process in self._processes]
        return "\n".join([*logs, *[(await scrape.fetch(address))[1] for address in self._metrics]])

    def events(self, number: int) -> list[dict[str, Any]]:
        """Returns what a process logged."""
        return [json.loads(line) for line in self._processes[number].log.read_text().splitlines()]


@pytest.fixture(params=ENGINES)
async def ground(
    request: pytest.FixtureRequest,
    valkey: ValkeyServer,
    postgres: Postgres,
    database: str,
    namespace: str,
    choose_ports: ChoosePorts,
    tmp_path: Path,
) -> AsyncIterator[Ground]:
    port, first, second = choose_ports(3)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Proxy(valkey.address))
        store = await stack.enter_async_context(Proxy(f"127.0.0.1:{postgres.port}"))
        config = {
            "redis_nodes": redis.address,
            "redis_mode": "single",
            "postgres_catalog": f"{database.partition('@')[0]}@{store.address}/{database.rpartition('/')[2]}",
            "namespace": namespace,
            "local_admin": True,
            "log_level": "debug",
            "log_format": "json",
        }
        serve = config | {"engine": request.param, "listen_address": f"127.0.0.1:{port}", "web_address": f"127.0.0.1:{first}"}
        relay = config | {"web_address": f"127.0.0.1:{second}"}
        processes = [await stack.enter_async_context(process("relay", tmp_path, relay))]
        processes.append(await stack.enter_async_context(process("serve", tmp_path, serve)))
        ground = Ground(database, redis, store, processes, [f"127.0.0.1:{second}", f"127.0.0.1:{first}"])
        await serving(f"127.0.0.1:{port}")
        ground.channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        sidecar = Sidecar("", ground.channel)
        for id in IDS:
            await Shop(sidecar).create(id)
        stock = Stockroom(ground.channel)
        await stock.set("p-1", 1_000_000)
        ground.session_id = await Customer(sidecar).create(CUSTOMER.core)
        ground.reservation_id = (await stock.reserve({"p-1": 1}, user_id=CUSTOMER.core)).reservation_id
        yield ground


async def test_nothing_of_a_customer_is_logged_or_counted(ground: Ground) -> None:
    assert await ground.call_everything() >= 35
    # Rows that cannot be read, and rows that PostgreSQL refuses in words that quote them.
    quoted = json.dumps([{"product_id": CUSTOMER.core, "quantity": CUSTOMER.core}])
    await ground.sql(f"UPDATE cache_sidecar.carts SET items = '{quoted}'")
    await ground.sql(
        f"ALTER TABLE cache_sidecar.carts ADD CHECK (user_id <> '{CUSTOMER.core}') NOT VALID; "
        f"ALTER TABLE cache_sidecar.sessions ADD CHECK (user_id <> '{CUSTOMER.core}') NOT VALID; "
        f"ALTER TABLE cache_sidecar.reservations ADD CHECK (user_id <> '{CUSTOMER.core}') NOT VALID"
    )
    await ground.call_everything()
    ground.store.cut()
    await ground.call_everything()
    ground.redis.cut()
    await ground.call_everything()
    await ground.store.heal()
    await ground.call_everything()
    await ground.redis.heal()

    async def is_well() -> bool:
        stats = await admin_grpc.AdminServiceStub(ground.channel).GetStats(admin.GetStatsRequest())  # type: ignore[misc]
        return not stats.degradations

    await until(is_well, seconds=60.0)
    said = await ground.said()
    secrets = [one for one in (CUSTOMER, TOKEN) if shown(said, one)]
    lines = [line for line in said.splitlines() for one in secrets if shown(line, one)]
    assert lines == []
    assert [line for line in said.splitlines() if ground.session_id in line] == []
    # The log is not silent: it has a line for each call, and what failed.
    events = ground.events(1)
    assert {one["method"] for one in events if one["event"] == "call ended"} >= {
        path.removeprefix("/") for path in valid(SESSION_ID, RESERVATION_ID)
    }
    assert any(one["event"] == "a dependency fails" for one in events)
