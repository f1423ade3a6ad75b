"""The client libraries against bare stubs and against redis-py. The sidecar answers from memory, so that the client counts."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1.cache_pb2 import Source
from tests.bench import direct
from tests.bench.client_reads import CONCURRENT
from tests.bench.comparison import Comparison, Measure, Measured, measured
from tests.bench.processes import BenchError, Process, Skipped
from tests.bench.products import HOT, requests_for, warm
from tests.bench.stack import NAMESPACE, Stack
from tests.clients import builds, go_builds
from tests.e2e.build import CannotBuild

LAYER = 1 / 1.1
"The goal of a layer: at most 10 % over the bare stub."
ROUND_TRIP = 0.0005
"Of the network in between, in seconds."
_GO_READS = Path("build/bench-client-go").absolute()

Run = Callable[[str, dict[str, object]], AbstractContextManager[Process]]
"""Runs the program of a language for a kind of reads, with a job."""


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    return [*_python(stack), *_network(stack), *_go(stack), *_typescript(stack), *_java(stack)]


def _python(stack: Stack) -> list[Comparison]:
    run = partial(stack.direct, module="tests.bench.client_reads", beside=True)
    reads, redis = partial(_reads, stack, run), partial(_redis, stack)
    return [
        _by_cpu("client_sync", LAYER, partial(reads, "client-sync", "bare-sync", 1)),
        _by_cpu("client_aio", LAYER, partial(reads, "client-aio", "bare-aio", 1)),
        _by_cpu("client_aio_32", LAYER, partial(reads, "client-aio", "bare-aio", CONCURRENT)),
        _by_cpu("client_joined", 2.0, partial(reads, "joined", "client-aio", CONCURRENT)),
        _by_cpu("client_l0", 1.0, partial(_l0, stack, run, 3.0)),
        Comparison(name="client_redis", goal=1.0, sides=partial(redis, "client-aio", CONCURRENT)),
        Comparison(name="client_redis_joined", goal=1.0, sides=partial(redis, "joined", CONCURRENT)),
    ]


def _network(stack: Stack) -> list[Comparison]:
    """With a network between all programs and Redis; the sidecar is on the same machine as its caller, as it is in a pod."""
    redis = partial(_redis, stack, round_trip=ROUND_TRIP)
    l2 = partial(redis, is_memory_used=False)
    return [
        Comparison(name="client_network_1", goal=2.0, sides=partial(redis, "client-aio", 1), by="p50"),
        Comparison(name="client_network", goal=1.0, sides=partial(redis, "client-aio", CONCURRENT)),
        Comparison(name="client_network_joined", goal=2.0, sides=partial(redis, "joined", CONCURRENT)),
        Comparison(name="client_network_l2_1", goal=0.5, sides=partial(l2, "client-aio", 1), by="p50"),
        Comparison(name="client_network_l2", goal=0.5, sides=partial(l2, "client-aio", CONCURRENT)),
    ]


def _go(stack: Stack) -> list[Comparison]:
    @contextmanager
    def run(kind: str, job: dict[str, object]) -> Iterator[Process]:
        try:
            go_builds.go("build", "-o", str(_GO_READS), "./cmd/reads")
        except CannotBuild as error:
            raise Skipped(str(error)) from None
        except go_builds.GoFailed as error:
            raise BenchError(str(error).replace("\n", " ")) from None
        with stack.program([str(_GO_READS)], kind, job) as process:
            yield process

    return _layer(stack, "go", run, joined=1.2, l0_limit=1.0)


def _typescript(stack: Stack) -> list[Comparison]:
    @contextmanager
    def run(kind: str, job: dict[str, object]) -> Iterator[Process]:
        try:
            builds.TYPESCRIPT.get(math.inf)
        except CannotBuild as error:
            raise Skipped(str(error)) from None
        with stack.program(["node", str(builds.TYPESCRIPT.path() / "build/bench/reads.js")], kind, job) as process:
            yield process

    return _layer(stack, "typescript", run, joined=2.0, l0_limit=3.0)


def _java(stack: Stack) -> list[Comparison]:
    @contextmanager
    def run(kind: str, job: dict[str, object]) -> Iterator[Process]:
        try:
            builds.JAVA.get(math.inf)
            command = builds.java_command(builds.JAVA.path(), "io.cachesidecar.client.bench.Reads")
        except CannotBuild as error:
            raise Skipped(str(error)) from None
        with stack.program(command, kind, job) as process:
            yield process

    return _layer(stack, "java", run, joined=1.0, l0_limit=1.0)


def _layer(stack: Stack, language: str, run: Run, *, joined: float, l0_limit: float) -> list[Comparison]:
    """Returns the comparisons of one language.

    `joined` is the goal of joined gets, `l0_limit` what a read of L0 may take, in microseconds.
    """
    reads = partial(_reads, stack, run)
    return [
        _by_cpu(f"client_{language}", LAYER, partial(reads, "client", "bare", 1)),
        _by_cpu(f"client_{language}_32", LAYER, partial(reads, "client", "bare", CONCURRENT)),
        _by_cpu(f"client_{language}_joined", joined, partial(reads, "joined", "client", CONCURRENT)),
        _by_cpu(f"client_{language}_l0", 1.0, partial(_l0, stack, run, l0_limit)),
    ]


def _by_cpu(name: str, goal: float, sides: Callable[[], AbstractContextManager[tuple[Measure, Measure]]]) -> Comparison:
    return Comparison(name=name, goal=goal, sides=sides, by="cpu")


@contextmanager
def _reads(stack: Stack, run: Run, kind: str, reference: str, workers: int) -> Iterator[tuple[Measure, Measure]]:
    """Hits of the same sidecar by two kinds of reads."""
    ids = stack.product_ids[:HOT]
    with stack.sidecar() as sidecar:
        warm(sidecar, requests_for(ids), Source.SOURCE_L1)
        job: dict[str, object] = {"address": sidecar.address, "keys": ids, "workers": workers}
        with run(kind, job) as ours, run(reference, job) as theirs:
            yield _measure(stack, ours), _measure(stack, theirs)


@contextmanager
def _l0(stack: Stack, run: Run, limit_us: float) -> Iterator[tuple[Measure, Measure]]:
    """Reads from L0 by one caller; the reference is what one may take."""
    limit = Measured(
        calls_per_second=1e6 / limit_us,
        p50_us=limit_us,
        p99_us=limit_us,
        cpu_s_per_1000=limit_us / 1000,
        own=1.0,
        load_busy=0.0,
        foreign=0.0,
    )
    ids = stack.product_ids[:HOT]
    with stack.sidecar() as sidecar:
        warm(sidecar, requests_for(ids), Source.SOURCE_L1)
        with run("l0", {"address": sidecar.address, "keys": ids, "workers": 1}) as ours:
            yield _measure(stack, ours), lambda _: limit


@contextmanager
def _redis(
    stack: Stack, kind: str, workers: int, *, round_trip: float = 0.0, is_memory_used: bool = True
) -> Iterator[tuple[Measure, Measure]]:
    """Reads through the sidecar against redis-py's `GET` and decoding of the same products.

    With a `round_trip` in seconds, both reach Redis over a network; without `is_memory_used`, so does every read of the sidecar.
    """
    names = KeyNames(NAMESPACE)
    ids = stack.product_ids[:HOT]
    with stack.sidecar(l1_max_entries=1) as sidecar:
        # What a sidecar fills into Redis is not there yet when it answers from memory.
        warm(sidecar, requests_for(ids), Source.SOURCE_L2)
    with stack.redis_behind(round_trip) as nodes:
        memory = {} if is_memory_used else {"l1_max_entries": 1}
        with stack.sidecar(redis_nodes=nodes, **memory) as sidecar:
            warm(sidecar, requests_for(ids), Source.SOURCE_L1 if is_memory_used else Source.SOURCE_L2)
            mine: dict[str, object] = {"address": sidecar.address, "keys": ids, "workers": workers}
            theirs: dict[str, object] = {
                "addresses": nodes,
                "keys": [names.key("product", id) for id in ids],
                "workers": workers,
            }
            run = partial(stack.direct, module="tests.bench.client_reads", beside=True)
            with run(kind, mine) as ours, run("redis", theirs) as reference:
                yield _measure(stack, ours), _measure(stack, reference)


def _measure(stack: Stack, process: Process) -> Measure:
    return lambda seconds: measured(lambda: direct.ask(process, seconds), process=process, cores=stack.cores)
