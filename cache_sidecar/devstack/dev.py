"""`cache-sidecar dev`: everything on this machine, kept in one directory.

Start: lock, end what a kill -9 left, then Valkey beside PostgreSQL (migrate, demo catalogue), then relay and sidecars.
Stop: sidecars first, as they drain, then the relay, then the servers.
"""

import asyncio
import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console

from cache_sidecar.config.settings import ROLES, split_address
from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError
from cache_sidecar.devstack import catalogue, region, summary
from cache_sidecar.devstack.ports import Ports
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes, end_leftovers
from cache_sidecar.devstack.region import Region
from cache_sidecar.devstack.sidecars import fail_if_ended, serving, start_relay, start_sidecar
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.terminal import Steps
from cache_sidecar.devstack.valkey import BUS, ValkeyCluster
from cache_sidecar.devstack.waiting import together
from cache_sidecar.devstack.wheels import postgres_programs, valkey_server
from cache_sidecar.server.engines.selection import choose
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.migrate import migrate

INTERRUPTED = 130
NAMESPACE = "cs"
POSTGRES_VERSION = 18
_VALKEY_PORT, _NODES = 7000, 6
_POSTGRES_PORT = 15432
_READY, _PORTS = "dev.json", "ports.json"
# Seconds between two looks at who is still running.
_WATCH = 0.3


@dataclass(frozen=True, kw_only=True)
class DevOptions:
    """What `cache-sidecar dev` was asked for."""

    state: Path = Path(".dev")
    "The directory that keeps everything."
    sidecars: int = 1
    "How many in each region; the first listens on `listen`, the others on the ports after it."
    products: int = 100_000
    "At least so many demo products."
    listen: str = "127.0.0.1:50051"
    "Port 0 is any free one; a taken one is passed over."
    regions: int = 1
    "How many; each has a Redis cluster and a relay of its own."
    engine: str = "auto"
    "As the setting."

    def __post_init__(self) -> None:
        if self.sidecars < 1 or self.products < 1 or self.regions < 1:
            raise SettingsError("there must be at least one sidecar, one product and one region")
        try:
            split_address(self.listen)
        except ValueError as error:
            raise SettingsError(f"--listen: {error}") from None


async def run(options: DevOptions) -> int:
    """Runs the stack until SIGINT, SIGTERM or SIGHUP, and returns the exit code: 0, or 130 when it was not ready yet.

    Raises InputError when the directory is in use or an extra is not installed, ChildFailed or SettingsError when
    something does not start.
    """
    valkey_server()
    postgres_programs(POSTGRES_VERSION)
    state = StateDirectory(options.state)
    state.claim()
    try:
        return await _run(Stack(options, state, Console(highlight=False)))
    except psycopg.Error as error:
        raise ServerUnreachable(f"PostgreSQL failed: {str(error).splitlines()[0]} (logs: {state.path / 'logs'})") from None
    except OSError as error:
        raise InputError(f"cannot keep state in {state.path}: {error}") from None
    finally:
        state.release()


async def _run(stack: "Stack") -> int:
    stop = asyncio.Event()
    with _signals(stop, again=stack.kill):
        starting = asyncio.create_task(stack.start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return INTERRUPTED
            starting.result()
            await stack.watch(stop)
            return 0
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            await stack.stop()


@contextlib.contextmanager
def _signals(stop: asyncio.Event, *, again: Callable[[], None]) -> Iterator[None]:
    """Sets `stop` at the first signal, and calls `again` at each further one."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, lambda: again() if stop.is_set() else stop.set())
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class Stack:
    """All that runs."""

    def __init__(self, options: DevOptions, state: StateDirectory, console: Console) -> None:
        self._options = options
        self._state = state
        self._console = console
        self._processes = Processes(state)
        self._ports = Ports()
        self._regions: list[Region] = []
        self._engine = choose(options.engine)

    async def start(self) -> None:
        """Returns when every part answers, and `dev.json` and the summary say where."""
        begin = asyncio.get_running_loop().time()
        self._state.remove(_READY)
        left = await end_leftovers(self._state)
        if left:
            self._console.print(f"Ended what an earlier run left behind: {', '.join(left)}.", soft_wrap=True)
        shutil.rmtree(self._processes.logs)
        self._processes.logs.mkdir()
        self._place()
        with Steps(self._console) as steps:
            # Sidecars don't need Redis to start; by the time they look for it, it is there.
            await together(self._start_valkey(steps), self._start_from_postgres(steps))
        self._state.write(_READY, json.dumps(self._as_json(), indent=2))
        seconds = asyncio.get_running_loop().time() - begin
        summary.show(self._console, self._summary(), seconds=seconds)

    async def watch(self, stop: asyncio.Event) -> None:
        """Says who ends, until `stop` is set. Nobody is started again: somebody may have killed it on purpose."""
        reported: set[int] = set()
        while not stop.is_set():
            for child in self._processes.lost():
                if child.pid not in reported:
                    reported.add(child.pid)
                    self._console.print(
                        f"{child.role} (pid {child.pid}) ended by itself; its log is {child.log}", soft_wrap=True
                    )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _WATCH)
        self._console.print("Stopping.")

    async def stop(self) -> None:
        """Ends all that was started."""
        self._state.remove(_READY)
        await self._processes.stop([sidecar.child for each in self._regions for sidecar in each.sidecars])
        await self._processes.stop([relay for each in self._regions for relay in each.relays])
        await self._processes.stop_all()
        self._ports.close()

    def kill(self) -> None:
        """Ends all of it at once."""
        self._processes.kill_all()

    def _place(self) -> None:
        """Chooses ports: those of the last time, where they are free."""
        last = self._last_ports()
        chosen: dict[str, Sequence[int]] = {}
        for number, name in enumerate(region.names(self._options.regions)):
            folder, first = region.own("valkey", number), _VALKEY_PORT + number * _NODES
            ports = self._ports.choose(last.get(folder) or range(first, first + _NODES), beside=BUS)
            chosen[folder] = ports
            # Always a new cluster: that is as quick as starting the old one, and nothing in it needs to be kept.
            shutil.rmtree(self._state.path / folder, ignore_errors=True)
            cluster = ValkeyCluster(self._processes, self._state.path / folder, ports)
            self._regions.append(Region(name=name, cluster=cluster))
        (port,) = self._ports.choose(last.get("postgres") or [_POSTGRES_PORT])
        self._state.write(_PORTS, json.dumps(chosen | {"postgres": [port]}))
        self._postgres = Postgres(
            self._processes,
            self._state.path / "postgres",
            port,
            version=POSTGRES_VERSION,
            settings={"max_connections": "200"},
        )

    def _last_ports(self) -> dict[str, Sequence[int]]:
        try:
            found: dict[str, Sequence[int]] = json.loads((self._state.path / _PORTS).read_text())
        except (OSError, ValueError):
            return {}
        return found

    async def _start_valkey(self, steps: Steps) -> None:
        clusters = [each.cluster for each in self._regions]
        step = steps.begin(what := "Valkey cluster" if len(clusters) == 1 else f"{len(clusters)} Valkey clusters")
        await together(*(cluster.start() for cluster in clusters))
        step.done(f"{what}: {_NODES} nodes from {' and '.join(cluster.addresses[0] for cluster in clusters)}")

    async def _start_from_postgres(self, steps: Steps) -> None:
        await self._start_postgres(steps)
        await self._start_sidecars(steps)

    async def _start_postgres(self, steps: Steps) -> None:
        step = steps.begin(f"PostgreSQL {POSTGRES_VERSION}")
        await self._postgres.start()
        for folder in self._postgres.opened:
            self._console.print(f"Opened {folder} for passage (chmod o+x): PostgreSQL does not run as root.", soft_wrap=True)
        applied = await migrate(self._postgres.dsn(), *ROLES)
        await self._forget_other_regions()
        step.done(f"PostgreSQL {POSTGRES_VERSION} on 127.0.0.1:{self._postgres.port}, {_applied(applied)}")
        step, count = steps.begin("Demo catalogue"), self._options.products
        added = await catalogue.fill(self._postgres.dsn(), count=count, progress=lambda done: step.progress(done, count))
        step.done(f"Demo catalogue: {f'{added:,} products added' if added else 'there already'}")

    async def _forget_other_regions(self) -> None:
        """Forgets those of an earlier start: changes are kept until every region that is known was told of them."""
        async with await Connection.connect(self._postgres.dsn()) as connection:
            names = [each.name for each in self._regions]
            await connection.execute("DELETE FROM cache_sidecar.relays WHERE region <> ALL(%s)", [names])

    async def _start_sidecars(self, steps: Steps) -> None:
        step = steps.begin("Relay and sidecars")
        host, wish = split_address(self._options.listen)
        count = self._options.sidecars * len(self._regions)
        ports = self._ports.choose([wish + number if wish else 0 for number in range(count)], host=host)
        for number, port in enumerate(ports):
            listen = f"{self._options.listen.rpartition(':')[0]}:{port}"
            # Dealt out: the first of each region come first.
            place = self._regions[number % len(self._regions)]
            place.sidecars.append(start_sidecar(self._processes, f"sidecar-{number + 1}", listen, self._common(place)))
        for number, place in enumerate(self._regions):
            place.relays.append(start_relay(self._processes, region.own("relay", number), self._common(place)))
        await together(*(serving(sidecar) for place in self._regions for sidecar in place.sidecars))
        for relay in (relay for place in self._regions for relay in place.relays):
            fail_if_ended(relay)
        relays = "Relay" if len(self._regions) == 1 else f"{len(self._regions)} relays"
        step.done(f"{relays} and {count} sidecar{'s' if count > 1 else ''} from {self._regions[0].sidecars[0].grpc}")

    def _common(self, place: Region) -> dict[str, str | list[str]]:
        return {
            "namespace": NAMESPACE,
            "region": place.name,
            "redis_nodes": place.cluster.addresses,
            "engine": self._options.engine,
            "postgres_catalog": self._postgres.dsn(),
        }

    def _as_json(self) -> dict[str, object]:
        dsn = self._postgres.dsn()
        return {
            "sidecars": [
                {"pid": one.child.pid, "grpc": one.grpc, "socket": str(one.socket), "region": place.name}
                for place in self._regions
                for one in place.sidecars
            ],
            "relays": [{"pid": relay.pid, "region": place.name} for place in self._regions for relay in place.relays],
            "redis": [
                {"address": node.address, "pid": node.pid, "region": place.name}
                for place in self._regions
                for node in place.cluster.nodes
            ],
            "databases": {"catalog": dsn, "user": dsn, "analytics": dsn},
            "postgres_pid": self._postgres.pid,
        }

    def _summary(self) -> summary.Summary:
        return summary.Summary(
            regions=self._regions,
            engine=f"{self._engine.name}, as {self._engine.reason}",
            dsn=self._postgres.dsn(),
            logs=self._processes.logs,
            state=self._state.path,
        )


def _applied(migrations: list[str]) -> str:
    return f"{len(migrations)} migrations applied" if migrations else "migrated already"
