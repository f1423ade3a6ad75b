"""What a consistency run acts upon: real servers, and sidecars and relays that are processes of their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from cache_sidecar.devstack.ports import free_ports
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Child, Processes
from cache_sidecar.devstack.sidecars import Sidecar, serving, start_relay, start_sidecar
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.tiers.names import Names
from tests.cut_off import Line, line_to


class Stack:
    """Everything that runs. The first sidecar reaches Redis through `line`, if there is one."""

    def __init__(
        self,
        processes: Processes,
        cluster: ValkeyCluster,
        postgres: Postgres,
        *,
        dsn: str,
        namespace: str,
        line: Line | None = None,
    ) -> None:
        self.processes = processes
        self.cluster = cluster
        self.postgres = postgres
        self.dsn = dsn
        self.names = Names(namespace)
        self._line = line
        self.sidecars: list[Sidecar] = []
        self.incarnations: list[int] = []
        "A number for each sidecar's process, never used for another one."
        self.relays: list[Child] = []

    @property
    def line(self) -> Line:
        """How the first sidecar reaches Redis. Raises ValueError when that is not to be cut."""
        if self._line is None:
            raise ValueError("no sidecar of this stack can be cut off")
        return self._line

    async def start(self, *, sidecars: int, relays: int) -> None:
        """Returns when all serve."""
        for number, port in enumerate(free_ports([0] * sidecars)):
            self.sidecars.append(self._sidecar(number, f"127.0.0.1:{port}"))
            self.incarnations.append(number)
        self.relays = [self._relay(number) for number in range(relays)]
        await asyncio.gather(*map(serving, self.sidecars))

    async def stop(self) -> None:
        """Ends sidecars and relays."""
        await self.processes.stop([*(one.child for one in self.sidecars), *self.relays])

    def kill_sidecar(self, number: int) -> None:
        """Ends a sidecar at once (SIGKILL)."""
        self.incarnations[number] = max(self.incarnations) + 1
        self.sidecars[number].child.kill()

    async def restart_sidecar(self, number: int) -> None:
        """Starts another one in its place, and returns when it serves."""
        self.sidecars[number] = self._sidecar(number, self.sidecars[number].grpc)
        await serving(self.sidecars[number])

    def restart_relay(self, number: int) -> None:
        """Starts another one in the place of one that was killed."""
        self.relays[number] = self._relay(number)

    def _sidecar(self, number: int, address: str) -> Sidecar:
        nodes = self._line.addresses if self._line and number == 0 else self.cluster.addresses
        return start_sidecar(self.processes, self._role("sidecar", number), address, self._settings(nodes))

    def _relay(self, number: int) -> Child:
        return start_relay(self.processes, self._role("relay", number), self._settings(self.cluster.addresses))

    def _role(self, what: str, number: int) -> str:
        return f"{self.names.namespace}-{what}-{number}"

    def _settings(self, nodes: list[str]) -> dict[str, str | list[str]]:
        return {
            "namespace": self.names.namespace,
            "redis_nodes": nodes,
            "postgres_catalog": self.dsn,
            "log_level": "warning",
            "log_format": "json",
        }


@asynccontextmanager
async def running(
    processes: Processes,
    cluster: ValkeyCluster,
    postgres: Postgres,
    *,
    dsn: str,
    namespace: str,
    sidecars: int,
    relays: int,
    can_be_cut: bool = True,
) -> AsyncIterator[Stack]:
    """Runs sidecars and relays in front of servers that run already, on a migrated database."""
    async with AsyncExitStack() as exits:
        line = await exits.enter_async_context(line_to(cluster.addresses)) if can_be_cut else None
        stack = Stack(processes, cluster, postgres, dsn=dsn, namespace=namespace, line=line)
        exits.push_async_callback(stack.stop)
        await stack.start(sidecars=sidecars, relays=relays)
        yield stack
