"""The servers that these tests break and the callers: real servers behind proxies, a relay and a sidecar."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import Access, ValkeyCluster, ValkeyServer
from cache_sidecar.store.migrate import migrate
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest, GetStatsResponse, InvalidateRequest
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from cache_sidecar.v1.product_service_pb2 import GetProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.failure.outages.load import CART, KINDS, REFUSALS, Load, answered
from tests.failure.outages.standby import standby_of
from tests.support.cluster_proxies import Line, line_to
from tests.support.dataset_case import open_l2
from tests.support.free_ports import ChoosePorts, later_ports
from tests.support.launch import Sidecar, process, serving, without_retries
from tests.support.proxy import Proxy
from tests.support.until import until

PRODUCTS, NAMESPACE = 200, "outages"
# Limit for a condition on a busy machine, in seconds.
PATIENCE = 60.0
# How the sidecar logs in to Redis.
USER, PASSWORD = "shop", "open"
_INSERT = """
    INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
    SELECT 'warm-' || n, 'warm', 1, 'EUR' FROM generate_series(1, %s) AS n RETURNING product_id
"""


@dataclass(frozen=True)
class Outage:
    """Something that breaks and recovers."""

    name: str
    begin: Callable[["Ground"], Awaitable[None]]
    end: Callable[["Ground"], Awaitable[None]]
    at_least: float = 0.0
    "Seconds that it lasts."
    refuses: tuple[str, ...] = ()
    "The kinds of calls that may be refused during it; no others may fail."


class Ground:
    """The running servers. Every connection to them goes through a proxy."""

    def __init__(
        self,
        *,
        nodes: list[ValkeyServer],
        cluster: ValkeyCluster | None,
        redis: Line,
        postgres: Postgres,
        standby: Postgres | None,
        store: Proxy,
    ) -> None:
        self.nodes = nodes
        self.cluster = cluster
        self.redis = redis
        self.postgres = postgres
        self.standby = standby
        "The second host of the DSN."
        self.store = store
        self.sidecar: Sidecar
        self.pid = 0
        "Of the sidecar's process."
        self.warm: set[str] = set()

    async def each_node(self, *command: str) -> None:
        """Has every Redis node do something."""
        for node in self.nodes:
            async with node.client() as client:
                await client.execute_command(*command)

    async def shard(self) -> list[ValkeyServer]:
        """Returns a primary of the cluster and its replica."""
        assert self.cluster is not None
        primary = (await self.cluster.primaries())[0]
        async with primary.client() as client:
            replicas: Any = await client.info("replication")
        ports = {primary.port, int(replicas["slave0"]["port"])}
        return sorted((node for node in self.nodes if node.port in ports), key=lambda node: node is not primary)

    async def warm_up(self) -> None:
        """Waits until every warm product is in the sidecar's memory and in Redis."""
        stub = ProductServiceStub(self.sidecar.channel)  # type: ignore[no-untyped-call]
        admin = AdminServiceStub(self.sidecar.channel)  # type: ignore[no-untyped-call]
        nodes = self.nodes if self.cluster else self.nodes[:1]

        async with open_l2(
            ",".join(node.address for node in nodes), NAMESPACE, redis_username=USER, redis_password=PASSWORD
        ) as redis:

            async def is_warm() -> bool:
                replies = await answered(
                    lambda: asyncio.gather(*(stub.GetProduct(GetProductRequest(product_id=id)) for id in self.warm))
                )
                missing = self.warm - (await redis.read("product", list(self.warm))).keys()
                if missing:  # an outage removed it
                    await answered(lambda: admin.Invalidate(InvalidateRequest(dataset="product", ids=missing)))
                return not missing and {reply.cache.source for reply in replies} == {1}

            await until(is_warm, seconds=PATIENCE)

    async def degraded(self) -> set[str]:
        """Returns the dependencies that the sidecar reports as failing; asks again while the load leaves no room for that."""
        admin = AdminServiceStub(self.sidecar.channel)  # type: ignore[no-untyped-call]
        stats: GetStatsResponse = await answered(lambda: admin.GetStats(GetStatsRequest()))
        return {one.what for one in stats.degradations}

    async def is_refused(self) -> bool:
        """Whether a warm product cannot be read."""
        stub = ProductServiceStub(self.sidecar.channel)  # type: ignore[no-untyped-call]
        try:
            await stub.GetProduct(GetProductRequest(product_id=min(self.warm)))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    async def during(self, outage: Outage, *, seconds: float) -> Load:
        """Calls for some seconds before, during and after an outage, and returns the results.

        Asserts for every outage: no acknowledged write is lost; only calls that the outage may refuse fail, with UNAVAILABLE or
        RESOURCE_EXHAUSTED and RetryInfo; afterwards everything works without a restart.
        """
        await self.warm_up()
        load = Load(self.sidecar, sorted(self.warm))
        load.begin("before")
        async with load.running():
            await asyncio.sleep(seconds)
            await until(load.says_something, seconds=PATIENCE)
            load.begin("during")
            try:
                await outage.begin(self)
                await asyncio.sleep(max(seconds, outage.at_least))
                await until(load.says_something, seconds=PATIENCE)
            finally:
                load.begin("healing")
                await outage.end(self)
            await until(lambda: self._is_well(load), seconds=PATIENCE)
            load.begin("after")
            await asyncio.sleep(seconds)
            await until(load.says_something, seconds=PATIENCE)
        assert await load.lost() == []
        await until(self.says_so, seconds=PATIENCE)
        failed = {code for phase in load.phases.values() for tally in phase.values() for code in tally.codes}
        assert failed <= REFUSALS, failed
        for phase, tallies in load.phases.items():
            may_fail = outage.refuses if phase in {"during", "healing"} else ()
            for kind in KINDS:
                assert kind in may_fail or not tallies[kind].codes, f"{phase}: {kind}"
                assert not tallies[kind].without_retry_info, f"{phase}: {kind}"
        return load

    async def says_so(self) -> bool:
        """Returns whether the sidecar reports no failing dependency."""
        return not await self.degraded()

    async def _is_well(self, load: Load) -> bool:
        """Whether reads come from memory again, and the last write of each kind was acknowledged."""
        healing = load.phases["healing"]
        done = len(load.acknowledged.sessions)
        await asyncio.sleep(0.1)
        if len(load.acknowledged.sessions) == done or not healing[CART].latencies:
            return False
        return await self.is_fresh()

    async def is_fresh(self) -> bool:
        """Whether a warm product is read from memory, of which the sidecar knows that it is no older than it may be."""
        stub = ProductServiceStub(self.sidecar.channel)  # type: ignore[no-untyped-call]
        try:
            reply = await stub.GetProduct(GetProductRequest(product_id=min(self.warm)))
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.cache.source == 1 and not reply.cache.stale)


@asynccontextmanager
async def ground(
    processes: Processes, choose_ports: ChoosePorts, folder: Path, *, is_cluster: bool, **more: Any
) -> AsyncIterator[Ground]:
    """Runs all of it: a cluster of three primaries and their replicas; or one server with a replica, and PostgreSQL with one.

    `more` are settings.
    """
    kind = "cluster" if is_cluster else "single"
    async with AsyncExitStack() as exits:
        (port,) = choose_ports(1)
        directory = processes.state.path
        postgres = Postgres(processes, directory / f"postgres-{kind}", port, settings={"fsync": "off"}, role=f"postgres-{kind}")
        access = Access(users=(f"user {USER} on >{PASSWORD} ~* &* +@all",))
        cluster, nodes, standby = None, [], None
        if is_cluster:
            cluster = ValkeyCluster(processes, directory / "valkey-outages", choose_ports(6), access=access)
            nodes = cluster.nodes
            await asyncio.gather(cluster.start(), postgres.start())
            exits.push_async_callback(cluster.stop)
        else:
            for port in choose_ports(2):
                nodes.append(ValkeyServer(processes, directory / f"valkey-{port}", port, access=access))
            await asyncio.gather(*(node.start() for node in nodes), postgres.start())
            for node in nodes:
                exits.push_async_callback(node.stop)
            await _follow(nodes[1], nodes[0])
            standby = await standby_of(postgres, processes, directory / "postgres-standby", choose_ports(1)[0])
            exits.push_async_callback(standby.stop)
        exits.push_async_callback(postgres.stop)
        for role in ROLES:
            await migrate(postgres.dsn(), role)
        redis = await exits.enter_async_context(line_to([node.address for node in nodes]))
        store = await exits.enter_async_context(Proxy(f"127.0.0.1:{postgres.port}"))
        running = Ground(nodes=nodes, cluster=cluster, redis=redis, postgres=postgres, standby=standby, store=store)
        async with await psycopg.AsyncConnection.connect(postgres.dsn(), autocommit=True) as connection:
            running.warm = {id for (id,) in await (await connection.execute(_INSERT, [PRODUCTS])).fetchall()}
        config = _config(running, is_cluster=is_cluster) | more
        started = await exits.enter_async_context(process("serve", folder, config))
        await exits.enter_async_context(process("relay", folder, config))
        address = str(config["listen_address"])
        channel = await exits.enter_async_context(without_retries(address))
        await serving(address, seconds=PATIENCE)
        running.sidecar, running.pid = Sidecar(address, channel), started.pid
        yield running
        assert started.process.returncode is None
        log = started.log.read_text()
        assert "Traceback" not in log, log


async def _follow(replica: ValkeyServer, primary: ValkeyServer) -> None:
    async with replica.client() as client:
        await client.replicaof("127.0.0.1", primary.port)


def _config(running: Ground, *, is_cluster: bool) -> dict[str, Any]:
    (port,) = later_ports(1)
    before, _, after = running.postgres.dsn().rpartition("@")
    hosts, options = running.store.address, ""
    if running.standby is not None:
        hosts, options = f"{hosts},127.0.0.1:{running.standby.port}", "?target_session_attrs=read-write"
    return {
        "namespace": NAMESPACE,
        "listen_address": f"127.0.0.1:{port}",
        "redis_nodes": ",".join(running.redis.addresses if is_cluster else running.redis.addresses[:1]),
        "redis_mode": "cluster" if is_cluster else "single",
        "redis_username": USER,
        "redis_password": PASSWORD,
        "postgres_catalog": f"{before}@{hosts}/{after.partition('/')[2]}{options}",
        "log_level": "error",
        "drain_seconds": 1.0,
        "local_admin": True,
    }
