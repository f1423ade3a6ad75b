"""A stack for tests that break it: a Redis Cluster, a PostgreSQL that logs every statement, sidecars and a relay."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.store.migrate import migrate
from cache_sidecar.tiers.ports import partition_of
from cache_sidecar.tiers.redis.keys import KeyNames
from tests.support.launch import Process, process, serving, without_retries
from tests.support.stockroom import Stockroom
from tests.support.until import until

NAMESPACE = "inventory"
# Five interpreters start at once, on two cores that may be busy.
START_SECONDS = 60.0
# What the relay does goes on all the time, whoever reserves what; and so do the checks of the database and of new connections.
_RELAY = re.compile(r"outbox|sequence_changes|cache_sidecar\.relays|expire_hold|create_time <|LISTEN|pg_notify|^WITH gone AS")
_CHECK = re.compile(
    r"pg_backend_pid|cache_sidecar\.migrations|FROM cache_sidecar\.roles|pg_is_in_recovery|^SELECT$|DEALLOCATE ALL"
)
_STATEMENT = re.compile(r"^shop cache_sidecar LOG:  (?:statement|execute [^:]*): (\S+.*)$")


class InventoryStack:
    """What runs, and what it was asked."""

    def __init__(
        self, cluster: ValkeyCluster, postgres: Postgres, *, addresses: list[str], folder: Path, exits: AsyncExitStack
    ) -> None:
        self.cluster = cluster
        self.postgres = postgres
        self.addresses = addresses
        self.sidecars: dict[int, Process] = {}
        self.dsn = postgres.dsn()
        self._folder = folder
        self._exits = exits

    async def start(self) -> None:
        """Starts the relay, and the sidecars that don't run."""
        starting = [number for number in range(len(self.addresses)) if not self._runs(number)]
        for number in starting:
            command = process("serve", self._folder, self._settings(self.addresses[number]))
            self.sidecars[number] = await self._exits.enter_async_context(command)
        if len(starting) == len(self.addresses):
            await self._exits.enter_async_context(process("relay", self._folder, self._settings("127.0.0.1:0")))
        for number in starting:
            await until(partial(_listens, self.sidecars[number], self.addresses[number]), seconds=START_SECONDS)
            await serving(self.addresses[number])

    async def heal(self) -> None:
        """Restarts or resumes whatever does not run, and returns when all of it serves."""
        for node in self.cluster.nodes:
            if not node.child.running:
                await node.start()
            elif node.child.paused:
                node.resume()
        if not self.postgres.child.running:
            await self.postgres.start()
        await self.cluster.wait_ok()
        await self.start()

    def _runs(self, number: int) -> bool:
        return number in self.sidecars and self.sidecars[number].process.returncode is None

    def _settings(self, address: str) -> dict[str, Any]:
        return {
            "namespace": NAMESPACE,
            "redis_nodes": ",".join(self.cluster.addresses),
            "postgres_catalog": self.dsn,
            "listen_address": address,
            "max_concurrent_calls": 5000,
            "max_dataset_calls": 5000,
            "log_level": "error",
            "drain_seconds": 1.0,
        }

    def statements(self) -> Counter[str]:
        """Returns what the sidecars asked PostgreSQL so far, by the first words of the statement."""
        found: Counter[str] = Counter()
        for line in self.postgres.child.log.read_text(errors="replace").splitlines():
            match = _STATEMENT.match(line)
            if match and not _RELAY.search(match[1]) and not _CHECK.search(match[1]):
                found[_summary(match[1])] += 1
        return found

    async def primary_of(self, product_id: str) -> ValkeyServer:
        """Returns the node that holds the stock of a product now."""
        slot = KeyNames(NAMESPACE).slot(partition_of(product_id))
        async with self.cluster.nodes[-1].client() as client:
            ranges: Any = await client.execute_command("CLUSTER SLOTS")
        (port,) = [primary[1] for first, last, primary, *_ in ranges if first <= slot <= last]
        return next(node for node in self.cluster.nodes if node.port == port)

    async def replica_of(self, primary: ValkeyServer) -> ValkeyServer:
        """Returns the node that follows a primary now."""
        async with primary.client() as client:
            followers: Any = await client.info("replication")
        return next(node for node in self.cluster.nodes if node.port == int(followers["slave0"]["port"]))

    async def is_primary(self, node: ValkeyServer) -> bool:
        """Returns whether a node is a primary now."""
        return node in await self.cluster.primaries()

    @asynccontextmanager
    async def rooms(self) -> AsyncIterator[list[Stockroom]]:
        """Connects to each sidecar."""
        async with AsyncExitStack() as exits:
            # Calls that fail are repeated by the tests themselves, on another sidecar.
            channels = [without_retries(address) for address in self.addresses]
            yield [Stockroom(await exits.enter_async_context(channel)) for channel in channels]


def _summary(statement: str) -> str:
    return " ".join(re.sub(r"\s+", " ", statement).split(" ")[:4])


async def _listens(sidecar: Process, address: str) -> bool:
    assert sidecar.process.returncode is None, sidecar.log.read_text()
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def inventory_stack(
    processes: Processes, choose_ports: Callable[[int], list[int]], folder: Path, *, sidecars: int = 4
) -> AsyncIterator[InventoryStack]:
    """Runs all of it."""
    root = processes.state.path
    cluster = ValkeyCluster(processes, root / "valkey-inventory", choose_ports(6))
    (port,) = choose_ports(1)
    settings = {"fsync": "off", "max_connections": "200", "log_statement": "all", "log_line_prefix": "%d %a "}
    postgres = Postgres(processes, root / "postgres-inventory", port, settings=settings, role="postgres-inventory")
    await asyncio.gather(cluster.start(), postgres.start())
    async with AsyncExitStack() as exits:
        exits.push_async_callback(cluster.stop)
        exits.push_async_callback(postgres.stop)
        for role in ROLES:
            await migrate(postgres.dsn(), role)
        addresses = [f"127.0.0.1:{port}" for port in choose_ports(sidecars)]
        stack = InventoryStack(cluster, postgres, addresses=addresses, folder=folder, exits=exits)
        await stack.start()
        yield stack
