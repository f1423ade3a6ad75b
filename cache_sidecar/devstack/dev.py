"""`cache-sidecar dev`: the whole stack on this machine, with its state in one directory.

Start: lock the directory, stop processes that a kill -9 left behind, start Valkey and PostgreSQL (migrations, demo catalogue)
in parallel, then the relay and the sidecars. Stop: the sidecars first, because they drain, then the relay, then the servers.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console

from cache_sidecar.config import policy, settings
from cache_sidecar.config.settings import ROLES, split_address
from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError, SidecarError
from cache_sidecar.devstack import catalogue, region, summary
from cache_sidecar.devstack.ports import Ports
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes, end_leftovers, find_dead_roles
from cache_sidecar.devstack.region import Region
from cache_sidecar.devstack.sidecars import fail_if_ended, start_again, start_relay, start_sidecar, wait_until_serving
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.terminal import Steps
from cache_sidecar.devstack.valkey import BUS, ValkeyCluster
from cache_sidecar.devstack.waiting import together, until
from cache_sidecar.devstack.wheels import postgres_programs, valkey_server
from cache_sidecar.importer import products
from cache_sidecar.importer.run import ImportOptions, import_rows
from cache_sidecar.importer.spec import Parts
from cache_sidecar.server.engines import selection
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.rights import grants

INTERRUPTED = 130
RESTART = signal.SIGUSR1
"The signal that starts again what has exited."
NAMESPACE = "cs"
POSTGRES_VERSION = 18
# The roles of PostgreSQL that the sidecars and relays log in with.
SIDECAR, RELAY = "cs_sidecar", "cs_relay"
_PRODUCTS = 100_000
_VALKEY_PORT, _NODES = 7000, 6
_POSTGRES_PORT = 15432
_WEB_PORT = 9464
_READY, _PORTS = "dev.json", "ports.json"
# Seconds between two checks for children that have exited.
_WATCH = 0.3
_RESTART_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class DevOptions:
    """The options of `cache-sidecar dev`."""

    state: Path = Path(".dev")
    "The state directory."
    sidecars: int = 1
    "Sidecars in each region. The first one listens on `listen`, the others on the following ports."
    products: int | None = None
    "Minimum number of demo products; None for 100,000, or none if there is `data`."
    data: Path | None = None
    "A file with products, as for `cache-sidecar import products`."
    currency: str = ""
    "The currency of the products in `data`, if the file has none."
    listen: str = "127.0.0.1:50051"
    "Address of the first sidecar. Port 0 chooses any free port; a port in use is skipped."
    regions: int = 1
    "Number of regions, each with its own Redis cluster and relay."
    engine: str = "auto"
    "The engine of the sidecars, as in the setting `engine`."

    def __post_init__(self) -> None:
        if self.sidecars < 1 or self.demo_products < 0 or self.regions < 1:
            raise SettingsError("there must be at least one sidecar and one region, and no negative number of products")
        try:
            split_address(self.listen)
        except ValueError as error:
            raise SettingsError(f"--listen: {error}") from None

    @property
    def demo_products(self) -> int:
        """The minimum number of demo products."""
        return (0 if self.data else _PRODUCTS) if self.products is None else self.products


async def restart(path: Path) -> str:
    """Has the stack in a state directory start again what has exited. Returns a line about it.

    Raises InputError if no stack is ready there, and ServerUnreachable if something does not start.
    """
    state = StateDirectory(path)
    pid = state.holder()
    if pid is None or not (state.path / _READY).exists():
        raise InputError(f"nothing is ready in {state.path}: start it with `cache-sidecar dev`")
    dead = find_dead_roles(state)
    if not dead:
        return "everything runs"
    os.kill(pid, RESTART)

    async def is_alive() -> bool:
        return not find_dead_roles(state)

    if not await until(is_alive, seconds=_RESTART_SECONDS):
        raise ServerUnreachable(f"not started: {', '.join(find_dead_roles(state))} (logs: {state.path / 'logs'})")
    return f"started again: {', '.join(dead)}"


async def run(options: DevOptions) -> int:
    """Runs the stack until SIGINT, SIGTERM or SIGHUP. Returns the exit code: 0, or 130 if it was not ready yet.

    Raises InputError if the directory is in use or the extra is not installed, and ChildFailed or SettingsError if a process
    does not start.
    """
    if options.data is not None and not options.data.exists():
        raise InputError(f"cannot read {options.data}: there is no such file")
    valkey_server()
    postgres_programs(POSTGRES_VERSION)
    state = StateDirectory(options.state)
    state.claim()
    try:
        return await _run(Stack(options, state, Console(highlight=False)))
    except psycopg.Error as error:
        raise ServerUnreachable(f"PostgreSQL failed: {str(error).splitlines()[0]} (logs: {state.path / 'logs'})") from None
    except OSError as error:
        raise InputError(f"cannot use the state directory {state.path}: {error}") from None
    finally:
        state.release()


async def _run(stack: "Stack") -> int:
    stop = asyncio.Event()
    with _signals(stop, again=stack.kill, restart=stack.ask_restart):
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
def _signals(stop: asyncio.Event, *, again: Callable[[], None], restart: Callable[[], None]) -> Iterator[None]:
    """Sets `stop` on the first signal, and calls `again` on each further one; calls `restart` on RESTART."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, lambda: again() if stop.is_set() else stop.set())
    loop.add_signal_handler(RESTART, restart)
    try:
        yield
    finally:
        for number in (*numbers, RESTART):
            loop.remove_signal_handler(number)


class Stack:
    """All processes of the stack."""

    def __init__(self, options: DevOptions, state: StateDirectory, console: Console) -> None:
        self._options = options
        self._state = state
        self._console = console
        self._processes = Processes(state)
        self._ports = Ports()
        self._regions: list[Region] = []
        self._passwords: dict[str, Path] = {}
        "The files with the passwords of PostgreSQL's roles."
        self._engine = selection.select(options.engine)
        self._restart = asyncio.Event()
        self._product_id = ""
        "A product to read; empty if there is none."

    def ask_restart(self) -> None:
        """Has `watch` start again what has exited."""
        self._restart.set()

    async def start(self) -> None:
        """Starts everything. Returns when every part answers and `dev.json` and the summary have been written."""
        begin = asyncio.get_running_loop().time()
        self._state.remove(_READY)
        left = await end_leftovers(self._state)
        if left:
            self._console.print(f"Stopped processes left behind by an earlier run: {', '.join(left)}.", soft_wrap=True)
        shutil.rmtree(self._processes.logs)
        self._processes.logs.mkdir()
        self._create_servers()
        with Steps(self._console) as steps:
            # Sidecars do not need Redis to start; it is up by the time they connect.
            await together(self._start_valkey(steps), self._start_from_postgres(steps))
        self._state.write(_READY, json.dumps(await self._as_json(), indent=2))
        seconds = asyncio.get_running_loop().time() - begin
        summary.show(self._console, self._summary(), seconds=seconds)

    async def watch(self, stop: asyncio.Event) -> None:
        """Reports processes that exit, until `stop` is set. Starts them again only when asked: they may be dead on purpose."""
        reported: set[int] = set()
        while not stop.is_set():
            for child in self._processes.find_dead():
                if child.pid not in reported:
                    reported.add(child.pid)
                    self._console.print(
                        f"{child.role} (pid {child.pid}) {child.end()}; `cache-sidecar dev --restart` starts it again. "
                        f"Log: {child.log}",
                        soft_wrap=True,
                        markup=False,
                    )
            if self._restart.is_set():
                self._restart.clear()
                await self._start_again()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _WATCH)
        self._console.print("Stopping.")

    async def stop(self) -> None:
        """Stops everything."""
        self._state.remove(_READY)
        await self._processes.stop([sidecar.child for each in self._regions for sidecar in each.sidecars])
        await self._processes.stop([relay for each in self._regions for relay in each.relays])
        await self._processes.stop_all()
        self._ports.close()

    async def _start_again(self) -> None:
        """Starts what has exited, servers first, and says so. What does not start is reported like what exits."""
        dead = [child.role for child in self._processes.find_dead()]
        try:
            if not self._postgres.child.running:
                await self._postgres.start()
            await together(
                *(each.cluster.heal() for each in self._regions if not all(node.serving for node in each.cluster.nodes))
            )
            started = []
            for each in self._regions:
                each.relays = [start_again(self._processes, relay) for relay in each.relays]
                each.sidecars = [
                    sidecar._replace(child=start_again(self._processes, sidecar.child)) for sidecar in each.sidecars
                ]
                started += [sidecar for sidecar in each.sidecars if sidecar.child.role in dead]
            await together(*(wait_until_serving(sidecar) for sidecar in started))
        except SidecarError as error:
            self._console.print(f"Not started again: {error}", soft_wrap=True, markup=False)
        self._state.write(_READY, json.dumps(await self._as_json(), indent=2))
        running = {child.role for child in self._processes.children() if child.running}
        again = [role for role in dead if role in running]
        self._console.print(f"Started again: {', '.join(again) or 'nothing, everything runs'}.", soft_wrap=True)

    def kill(self) -> None:
        """Kills everything."""
        self._processes.kill_all()

    def _create_servers(self) -> None:
        """Chooses ports, those of the last start if they are free, and creates the servers."""
        last = self._last_ports()
        chosen: dict[str, Sequence[int]] = {}
        for number, name in enumerate(region.names(self._options.regions)):
            folder, first = region.name_in("valkey", number), _VALKEY_PORT + number * _NODES
            ports = self._ports.choose(last.get(folder) or range(first, first + _NODES), companion_offset=BUS)
            chosen[folder] = ports
            # Always a new cluster: starting the old one is no faster, and nothing in it needs to be kept.
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
        step.finish(f"{what}: {_NODES} nodes from {' and '.join(cluster.addresses[0] for cluster in clusters)}")

    async def _start_from_postgres(self, steps: Steps) -> None:
        await self._start_postgres(steps)
        await self._start_sidecars(steps)

    async def _start_postgres(self, steps: Steps) -> None:
        step = steps.begin(f"PostgreSQL {POSTGRES_VERSION}")
        await self._postgres.start()
        for folder in self._postgres.opened:
            self._console.print(
                f"Made {folder} traversable (chmod o+x), because PostgreSQL does not run as root.", soft_wrap=True
            )
        self._passwords = {role: await self._postgres.create_role(role) for role in (SIDECAR, RELAY)}
        applied = await migrate(self._postgres.dsn(), *ROLES, grants=grants(sidecar=SIDECAR, relay=RELAY))
        await self._delete_other_regions()
        step.finish(f"PostgreSQL {POSTGRES_VERSION} on 127.0.0.1:{self._postgres.port}, {_describe_migrations(applied)}")
        if count := self._options.demo_products:
            step = steps.begin("Demo catalogue")
            added = await catalogue.fill(self._postgres.dsn(), count=count, progress=lambda done: step.progress(done, count))
            step.finish(f"Demo catalogue: {f'{added:,} products added' if added else 'up to date'}")
        if self._options.data:
            await self._import(self._options.data, steps)
        self._product_id = await self._first_product()

    async def _import(self, data: Path, steps: Steps) -> None:
        """Imports products of the user's own."""
        step = steps.begin(f"Products of {data}")
        report = await import_rows(
            products.IMPORT,
            Parts(settings=settings.load, policy=lambda: policy.default()["product"]),
            source=str(data),
            dsn=self._postgres.dsn(),
            format=None,
            rejects=self._state.path / f"{data.name}.rejected.csv",
            progress=None,
            options=ImportOptions(currency=self._options.currency),
        )
        step.finish(f"Products of {data}")
        for line in report.lines():
            self._console.print(line, soft_wrap=True, markup=False)

    async def _first_product(self) -> str:
        async with await Connection.connect(self._postgres.dsn()) as connection:
            cursor = await connection.execute("SELECT min(product_id) FROM cache_sidecar.products")
            (found,) = await cursor.fetchone() or (None,)
        return str(found or "")

    async def _delete_other_regions(self) -> None:
        """Deletes the regions of an earlier start: PostgreSQL retains changes until every known region has received them."""
        async with await Connection.connect(self._postgres.dsn()) as connection:
            names = [each.name for each in self._regions]
            await connection.execute("DELETE FROM cache_sidecar.relays WHERE region <> ALL(%s)", [names])
            await connection.execute("DELETE FROM cache_sidecar.event_relays WHERE region <> ALL(%s)", [names])

    async def _start_sidecars(self, steps: Steps) -> None:
        step = steps.begin("Relay and sidecars")
        host, wish = split_address(self._options.listen)
        count = self._options.sidecars * len(self._regions)
        ports = self._ports.choose([wish + number if wish else 0 for number in range(count)], host=host)
        pages = self._ports.choose([_WEB_PORT + number for number in range(count)])
        for number, (port, page) in enumerate(zip(ports, pages, strict=True)):
            listen = f"{self._options.listen.rpartition(':')[0]}:{port}"
            # Round robin: the first sidecar of each region, then the second ones.
            place = self._regions[number % len(self._regions)]
            name, common = f"sidecar-{number + 1}", self._common(place, SIDECAR)
            place.sidecars.append(start_sidecar(self._processes, name, listen, common, web=f"127.0.0.1:{page}"))
        for number, place in enumerate(self._regions):
            place.relays.append(start_relay(self._processes, region.name_in("relay", number), self._common(place, RELAY)))
        await together(*(wait_until_serving(sidecar) for place in self._regions for sidecar in place.sidecars))
        for relay in (relay for place in self._regions for relay in place.relays):
            fail_if_ended(relay)
        relays = "Relay" if len(self._regions) == 1 else f"{len(self._regions)} relays"
        step.finish(f"{relays} and {count} sidecar{'s' if count > 1 else ''} from {self._regions[0].sidecars[0].grpc}")

    def _common(self, place: Region, role: str) -> dict[str, str | list[str] | bool]:
        return {
            "namespace": NAMESPACE,
            "region": place.name,
            "redis_nodes": place.cluster.addresses,
            "engine": self._options.engine,
            "local_admin": True,
            "postgres_catalog": self._postgres.dsn_of(role),
            "postgres_catalog_password_file": str(self._passwords[role]),
        }

    async def _as_json(self) -> dict[str, object]:
        dsn = self._postgres.dsn()
        primaries = {node.port for each in self._regions for node in await each.cluster.primaries()}
        return {
            "sidecars": [
                {"pid": one.child.pid, "grpc": one.grpc, "socket": str(one.socket), "web": one.web, "region": place.name}
                for place in self._regions
                for one in place.sidecars
            ],
            "relays": [{"pid": relay.pid, "region": place.name} for place in self._regions for relay in place.relays],
            "redis": [
                {"address": node.address, "pid": node.pid, "region": place.name, "primary": node.port in primaries}
                for place in self._regions
                for node in place.cluster.nodes
            ],
            "databases": dict.fromkeys(ROLES, dsn),
            "postgres_pid": self._postgres.pid,
        }

    def _summary(self) -> summary.Summary:
        return summary.Summary(
            regions=self._regions,
            engine=f"{self._engine.name} ({self._engine.reason})",
            dsn=self._postgres.dsn(),
            logs=self._processes.logs,
            state=self._state.path,
            product_id=self._product_id,
        )


def _describe_migrations(migrations: list[str]) -> str:
    return f"{len(migrations)} migrations applied" if migrations else "schema up to date"
