"""What a consistency run acts upon: real servers, and sidecars and relays that are processes of their own."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Child, Processes
from cache_sidecar.devstack.sidecars import Sidecar, as_toml, start_relay, start_sidecar, wait_until_serving
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.tiers.redis.keys import KeyNames
from tests.consistency.rulebook import SESSION_EXPIRY
from tests.support.cluster_proxies import Line, line_to
from tests.support.free_ports import later_ports

# Those that are installed.
ENGINES = ("native", "aio") if find_spec("cache_sidecar._native") else ("aio",)
AUTO = ("auto",)


class Stack:
    """Everything that runs. The first sidecar reaches Redis through `line`, if there is one; the last `idle` ones are seldom called."""

    def __init__(
        self,
        processes: Processes,
        cluster: ValkeyCluster,
        postgres: Postgres,
        *,
        dsn: str,
        namespace: str,
        line: Line | None = None,
        engines: Sequence[str] = AUTO,
        idle: int = 0,
    ) -> None:
        """`engines` are those of the sidecars, in turn."""
        self.processes = processes
        self.cluster = cluster
        self.postgres = postgres
        self.dsn = dsn
        self.names = KeyNames(namespace)
        self.idle = idle
        self._engines = engines
        self._line = line
        self._policy = processes.state.write(f"{namespace}-policy.toml", f"[session]\nl2_ttl = {SESSION_EXPIRY}\n")
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
        for number, port in enumerate(later_ports(sidecars)):
            self.sidecars.append(self._sidecar(number, f"127.0.0.1:{port}"))
            self.incarnations.append(number)
        self.relays = [self._relay(number) for number in range(relays)]
        await asyncio.gather(*map(wait_until_serving, self.sidecars))

    async def stop(self) -> None:
        """Ends sidecars and relays."""
        await self.processes.stop([*(one.child for one in self.sidecars), *self.relays])

    def errors(self) -> Counter[str]:
        """Returns the events that sidecars and relays logged as errors, and lines that are no JSON; each with its number."""
        found = Counter[str]()
        logs = [*(sidecar.child.log for sidecar in self.sidecars), *(relay.log for relay in self.relays)]
        for log in logs:
            for line in log.read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    found[line[:120]] += 1
                else:
                    found.update([entry["event"]] if entry["level"] in {"error", "critical"} else [])
        return found

    def kill_sidecar(self, number: int) -> None:
        """Ends a sidecar at once (SIGKILL)."""
        self.incarnations[number] = max(self.incarnations) + 1
        self.sidecars[number].child.kill()

    async def restart_sidecar(self, number: int, *, ahead: float = 0.0) -> None:
        """Starts another one in its place, whose clock may be ahead, and returns when it serves."""
        self.sidecars[number] = self._sidecar(number, self.sidecars[number].grpc, ahead=ahead)
        await wait_until_serving(self.sidecars[number])

    def restart_relay(self, number: int, *, ahead: float = 0.0) -> None:
        """Starts another one in the place of one that was killed; its clock may be ahead."""
        self.relays[number] = self._relay(number, ahead=ahead)

    def _sidecar(self, number: int, address: str, *, ahead: float = 0.0) -> Sidecar:
        nodes = self._line.addresses if self._line and number == 0 else self.cluster.addresses
        settings = self._settings(nodes) | {"engine": self._engines[number % len(self._engines)]}
        if not ahead:
            return start_sidecar(self.processes, self._role("sidecar", number), address, settings)
        sidecar = self.sidecars[number]
        return sidecar._replace(child=self._off_clock(ahead, "sidecar", number, "serve", sidecar.config))

    def _relay(self, number: int, *, ahead: float = 0.0) -> Child:
        role, settings = self._role("relay", number), self._settings(self.cluster.addresses)
        if not ahead:
            return start_relay(self.processes, role, settings)
        config = self.processes.state.write(f"{role}.toml", as_toml(settings))
        return self._off_clock(ahead, "relay", number, "relay", config)

    def _off_clock(self, ahead: float, what: str, number: int, verb: str, config: Path) -> Child:
        command = [sys.executable, "-m", "tests.consistency.off_clock", str(ahead), verb, "--config", str(config)]
        role = self._role(what, number)
        return self.processes.start(role, command, directory=Path.cwd(), stop_signal=signal.SIGTERM)

    def _role(self, what: str, number: int) -> str:
        return f"{self.names.namespace}-{what}-{number}"

    def _settings(self, nodes: list[str]) -> dict[str, str | list[str]]:
        return {
            "namespace": self.names.namespace,
            "redis_nodes": nodes,
            "postgres_catalog": self.dsn,
            "policy_file": str(self._policy),
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
    engines: Sequence[str] = AUTO,
    idle: int = 0,
) -> AsyncIterator[Stack]:
    """Runs sidecars and relays in front of servers that run already, on a migrated database."""
    async with AsyncExitStack() as exits:
        line = await exits.enter_async_context(line_to(cluster.addresses)) if can_be_cut else None
        stack = Stack(processes, cluster, postgres, dsn=dsn, namespace=namespace, line=line, engines=engines, idle=idle)
        exits.push_async_callback(stack.stop)
        await stack.start(sidecars=sidecars, relays=relays)
        yield stack
