"""The shipped service configs, as they are, in Python, Go and Node.js: against a server that hangs, and one that restarts."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import cache_pb2
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import product_service_pb2 as products
from cache_sidecar.v1.cart_pb2 import Cart
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from tests.interop import build
from tests.interop.running import got, run
from tests.interop.test_sidecar import locked
from tests.support.customers import item
from tests.support.databases import INSERT
from tests.support.databases import run as sql
from tests.support.free_ports import ChoosePorts
from tests.support.launch import process, relaying, serving, settings_for, without_retries
from tests.support.until import until

FOLDER = Path(__file__).parent / "shop"
PLAIN, WITH_TIMEOUTS = (
    Path(__file__).parents[2] / "protos/cache_sidecar/v1" / name
    for name in ("service_config.json", "service_config_timeouts.json")
)
USERS = 50
POOL = 10
PACKAGE = "/cache_sidecar.v1"


class Client(NamedTuple):
    """A program that calls as `clients/README.md` tells its language to."""

    command: list[str]
    environment: dict[str, str]
    has_timeouts: bool
    "Whether its language keeps to a timeout of the service config."


@pytest.fixture(params=["python", "go", "node"])
def client(request: pytest.FixtureRequest) -> Client:
    """Each language."""
    if request.param == "python":
        return Client([sys.executable, str(FOLDER / "shop.py")], {}, has_timeouts=False)
    if request.param == "go":
        return Client([str(got(build.SHOP))], {}, has_timeouts=True)
    modules = str(got(build.NODE) / "node_modules")
    return Client(["node", str(FOLDER / "shop.js")], {"NODE_PATH": modules}, has_timeouts=True)


class Serving:
    """A sidecar that can be killed and run again, always at the same address."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.address: str = config["listen_address"]
        self._folder = folder
        self._config = config
        self._stack = contextlib.AsyncExitStack()
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        started = await self._stack.enter_async_context(process("serve", self._folder, self._config))
        self._process = started.process
        await serving(self.address)

    async def end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        await self._process.wait()

    def stop_answering(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        await self._stack.aclose()


@pytest.fixture
async def sidecar(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, choose_ports: ChoosePorts, tmp_path: Path, engine: str
) -> AsyncIterator[Serving]:
    """A sidecar as a process."""
    served = Serving(
        tmp_path,
        {
            "listen_address": f"127.0.0.1:{choose_ports(1)[0]}",
            "redis_nodes": ",".join(valkey_cluster.addresses),
            "postgres_catalog": database,
            "namespace": namespace,
            "engine": engine,
            "postgres_pool_size": POOL,
            "postgres_timeout": 60.0,
            "redis_timeout": 5.0,
        },
    )
    async with relaying(settings_for(",".join(valkey_cluster.addresses), database, namespace)):
        await served.start()
        await until(lambda: _reads_redis(served.address))
        try:
            yield served
        finally:
            await served.close()


async def _reads_redis(address: str) -> bool:
    """Whether carts come from Redis: a sidecar that has just started does not rest on that yet."""
    async with without_retries(address) as channel:
        stub: Any = CartServiceStub(channel)
        await stub.ReplaceCart(carts.ReplaceCartRequest(cart=Cart(user_id="first", items=[item("mug")])))
        reply = await stub.GetCart(carts.GetCartRequest(user_id="first"))
    return bool(reply.cache.source == cache_pb2.SOURCE_L2)


def page(user: int) -> list[tuple[str, str]]:
    """Returns the calls of a page, as paths and requests in hexadecimal; of the writes, none has a request_id."""
    user_id = f"user-{user}"
    calls = [
        ("ProductService/GetProduct", products.GetProductRequest(product_id="mug")),
        ("CartService/GetCart", carts.GetCartRequest(user_id=user_id)),
        ("CartService/ReplaceCart", carts.ReplaceCartRequest(cart=Cart(user_id=user_id, items=[item("mug")]))),
        ("CartService/ClearCart", carts.ClearCartRequest(user_id=user_id)),
    ]
    return [(f"{PACKAGE}.{method}", request.SerializeToString().hex()) for method, request in calls]


class Visitors:
    """A client's users, who ask for one page after the other."""

    def __init__(self, program: asyncio.subprocess.Process) -> None:
        self._program = program
        self._lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._program.stdout is not None
        while line := await self._program.stdout.readline():
            self._lines.append(line.decode())

    async def see(self, pages: int) -> None:
        """Returns when they have seen so many more pages."""
        wanted = len(self._lines) + pages
        await until(lambda: len(self._lines) >= wanted or self._reading.done(), seconds=120)

    async def leave(self) -> list[str]:
        """Returns what failed."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        await self._reading
        assert await self._program.wait() == 0
        failed: list[str] = json.loads(self._lines[-1])["failed"]
        return failed


@contextlib.asynccontextmanager
async def visiting(client: Client, address: str, folder: Path) -> AsyncIterator[Visitors]:
    """Runs the client with 50 users."""
    plan = folder / "plan.json"
    # A deadline that says nothing of how fast this machine is.
    plan.write_text(json.dumps({"deadline": 120, "users": [page(user) for user in range(USERS)]}))
    program = await asyncio.create_subprocess_exec(
        *client.command,
        *(address, str(PLAIN), str(plan)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | client.environment,
    )
    try:
        yield Visitors(program)
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()


async def waiting_for_locks(database: str) -> int:
    """Returns how many of a database's sessions wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ((count,),) = await sql(database, query)
    return int(count)


async def test_a_restart_under_50_users_costs_no_page(client: Client, sidecar: Serving, database: str, tmp_path: Path) -> None:
    await sql(database, INSERT, ["mug", "A mug"])
    async with visiting(client, sidecar.address, tmp_path) as visitors:
        await visitors.see(USERS)
        async with locked(database, "carts"):
            # So many changes are on their way, and will never be answered by this sidecar.
            await until(lambda: _are_waiting(database))
            await sidecar.end(signal.SIGKILL)
            await sidecar.start()
        await visitors.see(2 * USERS)
        await sidecar.end(signal.SIGTERM)
        await sidecar.start()
        await visitors.see(2 * USERS)
        assert await visitors.leave() == []


async def _are_waiting(database: str) -> bool:
    return await waiting_for_locks(database) >= POOL


async def test_a_server_that_hangs_is_given_up_at_the_deadline_and_not_before(
    client: Client, sidecar: Serving, tmp_path: Path
) -> None:
    (_, _, (path, request), _) = page(1)
    file = WITH_TIMEOUTS if client.has_timeouts else PLAIN
    config = json.loads(file.read_text())
    (timeout,) = {
        entry.get("timeout") for entry in config["methodConfig"] for name in entry["name"] if name["method"] == "ReplaceCart"
    }
    # gRPC's C core takes seconds off a timeout of the service config: so its languages get a file without, and name a deadline.
    assert (timeout is not None) == client.has_timeouts
    seconds = float(timeout.removesuffix("s")) if timeout else 3.0
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"once": [path, request], "deadline": 0 if timeout else seconds}))
    sidecar.stop_answering()
    done = await run(*client.command, sidecar.address, file, plan, **client.environment)
    assert done.code == 0, done.errors
    answer = json.loads(done.said)
    assert answer["code"] == "DEADLINE_EXCEEDED"
    assert answer["seconds"] >= seconds - 0.05
