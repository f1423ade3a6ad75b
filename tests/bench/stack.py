"""The servers behind the sidecar, and the gRPC servers to measure: all of them real processes."""

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cache_sidecar.v1.product_service_pb2 import ListProductsRequest, ListProductsResponse
from tests.bench import fast_load, go
from tests.bench.comparison import Measure, Measured, measured
from tests.bench.connection import LoadError
from tests.bench.load import LoadResult, fetch, run_load
from tests.bench.machine import Cores
from tests.bench.processes import Process, running

NAMESPACE = "bench"
CATALOGUE, PRODUCTS = 100_000, 10_000
_PAGE_TRIES = 30
_LIST_PRODUCTS = "/cache_sidecar.v1.ProductService/ListProducts"
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much is in flight."""

    connections: int
    in_flight: int = 0
    "Calls on each connection."
    rate: float = 0.0
    "Calls started each second over all connections, independently of replies; 0 for as many as possible."


@dataclass(frozen=True, kw_only=True)
class Server:
    """A gRPC server under test."""

    process: Process
    address: str
    cores: Cores | None

    def side(
        self,
        path: str,
        payloads: Sequence[bytes],
        *,
        shape: Shape,
        accept: Callable[[LoadResult], None],
        refusal: str = "",
        **sent: Any,
    ) -> Measure:
        """Returns what measures one method; `accept` raises if the replies are not those that were to be measured.

        With `refusal` all calls are to be refused, with a status as in `grpc-status 9`. `sent` is what only `fast_load.run` can
        send, and needs cargo.
        """
        how: dict[str, Any] = {"connections": shape.connections, "in_flight": shape.in_flight} | sent
        generate: Callable[..., LoadResult] = fast_load.run
        if shape.rate:
            how["rate"] = shape.rate
        elif refusal or fast_load.program() is None:
            generate, how["refusal"] = run_load, refusal

        def measure(seconds: float) -> Measured:
            def load() -> LoadResult:
                result = generate(self.address, path, payloads, seconds=seconds, **how).check()
                accept(result)
                return result

            return measured(load, process=self.process, cores=self.cores)

        return measure


class Stack:
    """Redis Cluster, PostgreSQL and a demo catalogue, started when first used and stopped at the end."""

    def __init__(self, *, cores: Cores | None, state: Path, code: Path | None = None) -> None:
        self.cores = cores
        self.code = code
        "The folder of another version, which these servers run."
        self._state = state.absolute()
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self.directory = Path(self._running.enter_context(tempfile.TemporaryDirectory(prefix="cs-bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @cached_property
    def servers(self) -> Mapping[str, Any]:
        """The servers and their addresses, as `cache-sidecar dev` writes them."""
        ready = self._state / "dev.json"
        ready.unlink(missing_ok=True)
        options = {"--state": self._state, "--sidecars": 1, "--products": CATALOGUE, "--listen": "127.0.0.1:0"}
        arguments = ["cache_sidecar", "dev", *(str(part) for option in options.items() for part in option)]
        core = self.cores.load if self.cores else None
        with ExitStack() as starting:
            process = starting.enter_context(running("dev", arguments, core=core, directory=self.directory, code=self.code))
            process.wait_until(ready.exists)
            # Servers that are not ready in time are stopped: they would block the folder for the next attempt.
            self._running.enter_context(starting.pop_all())
        found: dict[str, Any] = json.loads(ready.read_text())
        self._relay(found)
        return found

    def _relay(self, servers: Mapping[str, Any]) -> None:
        """Runs a relay for the sidecars under test: without one they keep partitions in quarantine and mark replies stale."""
        own = {
            "namespace": NAMESPACE,
            "region": NAMESPACE,
            "redis_nodes": [node["address"] for node in servers["redis"]],
            "postgres_catalog": servers["databases"]["catalog"],
            "log_level": "warning",
        }
        arguments = ["cache_sidecar", "relay", "--config", str(self._settings("relay", own))]
        core = self.cores.load if self.cores else None
        self._running.enter_context(running("relay", arguments, core=core, directory=self.directory))

    def _settings(self, name: str, settings: Mapping[str, object]) -> Path:
        file = self.directory / f"{name}.toml"
        # For these values TOML and JSON are the same.
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        return file

    @property
    def redis(self) -> list[str]:
        """The nodes of the cluster."""
        return [node["address"] for node in self.servers["redis"]]

    @property
    def dsn(self) -> str:
        """The database with the products."""
        return str(self.servers["databases"]["catalog"])

    @property
    def product_ids(self) -> list[str]:
        """The first products of the catalogue: as many as most comparisons read."""
        return self.catalogue_ids[:PRODUCTS]

    @cached_property
    def catalogue_ids(self) -> list[str]:
        """All products of the catalogue."""
        address = self.servers["sidecars"][0]["grpc"]
        ids: list[str] = []
        token = ""
        while len(ids) < CATALOGUE:
            request = ListProductsRequest(page_size=1000, page_token=token).SerializeToString()
            page = ListProductsResponse.FromString(_page(address, request))
            ids += [product.product_id for product in page.products]
            token = page.next_page_token
            if not token:
                break
        return ids[:CATALOGUE]

    @contextmanager
    def sidecar(self, *, on_socket: bool = False, program: str = "cache_sidecar", **settings: object) -> Iterator[Server]:
        """Runs a sidecar on the core under test, with settings over the defaults; its load comes by TCP, or by a unix socket."""
        port = free_port()
        address = f"127.0.0.1:{port}"
        own: dict[str, object] = {
            "namespace": NAMESPACE,
            "listen_address": address,
            "redis_nodes": self.redis,
            "postgres_catalog": self.dsn,
            "log_level": "warning",
        }
        if on_socket:
            own["listen_socket"] = str(self.directory / "sidecar.sock")
        file = self._settings(f"sidecar-{port}", own | settings)
        core, arguments = self.cores.server if self.cores else None, [program, "serve", "--config", str(file)]
        with running(f"serve-{port}", arguments, core=core, directory=self.directory, code=self.code) as process:
            process.wait_until(lambda: _is_serving(address))
            yield Server(process=process, address=f"unix:{own['listen_socket']}" if on_socket else address, cores=self.cores)

    @contextmanager
    def bare(self, path: str, reply: bytes, *, on_socket: bool = False) -> Iterator[Server]:
        """Runs a bare grpcio servicer of one method on the core under test."""
        address = f"unix:{self.directory / 'bare.sock'}" if on_socket else "127.0.0.1:0"
        with self.helper("bare", ["tests.bench.bare", path, self._file(reply), address]) as (process, port):
            yield Server(process=process, address=address if on_socket else f"127.0.0.1:{port}", cores=self.cores)

    @contextmanager
    def bare_go(self, path: str, reply: bytes) -> Iterator[Server]:
        """Runs a grpc-go servicer of one method on the core under test. Raises BenchError without Go."""
        with self.helper("bare-go", [str(go.build()), path, self._file(reply)], is_python=False) as (process, port):
            yield Server(process=process, address=f"127.0.0.1:{port}", cores=self.cores)

    def _file(self, reply: bytes) -> str:
        file = self.directory / "reply"
        file.write_bytes(reply)
        return str(file)

    @contextmanager
    def direct(
        self, kind: str, job: Mapping[str, object], *, module: str = "tests.bench.direct", beside: bool = False
    ) -> Iterator[Process]:
        """Runs tests/bench/direct.py, or a program like it, on the core under test; `beside` a sidecar, on the other one."""
        file = self.directory / f"{kind}.json"
        file.write_text(json.dumps(job))
        with self.helper("direct", [module, kind, str(file)], beside=beside) as (process, _):
            yield process

    @contextmanager
    def program(self, command: Sequence[str], kind: str, job: Mapping[str, object]) -> Iterator[Process]:
        """Runs a program of another language that speaks as tests/bench/direct.py does, beside a sidecar."""
        file = self.directory / f"{kind}.json"
        file.write_text(json.dumps(job))
        with self.helper(kind, [*command, kind, str(file)], is_python=False, beside=True) as (process, _):
            yield process

    @contextmanager
    def redis_behind(self, round_trip: float) -> Iterator[list[str]]:
        """Gives the nodes of the cluster as they are reached over a network with a round trip in seconds; 0 for none."""
        if not round_trip:
            yield self.redis
            return
        file = self.directory / "network.json"
        file.write_text(json.dumps({"targets": self.redis, "delay": round_trip / 2}))
        with self.helper("network", ["cache_sidecar.replay.network", str(file)], beside=True) as (_, ports):
            yield [f"127.0.0.1:{port}" for port in ports.split()]

    @contextmanager
    def helper(
        self, name: str, arguments: Sequence[str], *, is_python: bool = True, beside: bool = False
    ) -> Iterator[tuple[Process, str]]:
        """Runs a program of the benchmark on the core under test, or on the other one; gives it and the first line it prints."""
        core = (self.cores.load if beside else self.cores.server) if self.cores else None
        own = {"directory": self.directory, "code": self.code if is_python else None}
        with running(name, arguments, core=core, answers=True, is_python=is_python, **own) as process:
            yield process, process.ask("")


def _page(address: str, request: bytes) -> bytes:
    """Returns a page of the catalogue; on a busy machine, a PostgreSQL that has just started may not answer at first."""
    for _ in range(_PAGE_TRIES - 1):
        try:
            return fetch(address, _LIST_PRODUCTS, [request])[0]
        except LoadError:
            time.sleep(1.0)
    return fetch(address, _LIST_PRODUCTS, [request])[0]


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _is_serving(address: str) -> bool:
    try:
        return fetch(address, _HEALTH, [b""]) == [_SERVING]
    except LoadError:
        return False
