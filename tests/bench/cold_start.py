"""The time from the start of a sidecar's process until it serves, against a limit of one second."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from cache_sidecar.probe import Target, ask
from tests.bench.comparison import Comparison, Measure, Measured
from tests.bench.machine import BusyMeter
from tests.bench.processes import running
from tests.bench.stack import NAMESPACE, Stack, free_port

_SECOND = Measured(calls_per_second=1.0, p50_us=1e6, p99_us=1e6, cpu_s_per_1000=1000.0, own=1.0, load_busy=0.0, foreign=0.0)
_LOOK_EVERY = 0.002


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    return [
        Comparison(name="cold_start", goal=1.0, unit="starts/s", sides=partial(_sides, stack, away=False)),
        Comparison(name="cold_start_away", goal=1.0, unit="starts/s", sides=partial(_sides, stack, away=True)),
    ]


@contextmanager
def _sides(stack: Stack, *, away: bool) -> Iterator[tuple[Measure, Measure]]:
    nobody = f"127.0.0.1:{free_port()}"
    servers: Mapping[str, str | Sequence[str]] = {
        "redis_nodes": [nobody] if away else stack.redis,
        "postgres_catalog": f"postgresql://nobody@{nobody}/none" if away else stack.dsn,
    }
    yield (lambda _: _start(stack, servers)), (lambda _: _SECOND)


def _start(stack: Stack, servers: Mapping[str, str | Sequence[str]]) -> Measured:
    """Starts one, and ends it."""
    address = f"127.0.0.1:{free_port()}"
    file = stack.directory / "cold_start.toml"
    settings = {"namespace": NAMESPACE, "listen_address": address, "log_level": "warning", **servers}
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    core = stack.cores.server if stack.cores else None
    target, busy, began = Target(address), BusyMeter(), time.perf_counter()
    arguments = ["cache_sidecar", "serve", "--config", str(file)]
    with running("cold_start", arguments, core=core, directory=stack.directory, code=stack.code) as started:
        while ask(target):
            time.sleep(_LOOK_EVERY)
            if time.perf_counter() - began > 1:
                started.wait_until(lambda: not ask(target))
        seconds, used, shares = time.perf_counter() - began, started.cpu_seconds(), busy.read()
    return Measured(
        calls_per_second=1 / seconds,
        p50_us=seconds * 1e6,
        p99_us=seconds * 1e6,
        cpu_s_per_1000=used * 1000,
        own=used / seconds,
        load_busy=shares[stack.cores.load] / seconds if stack.cores else 0.0,
        foreign=max(0.0, shares[stack.cores.server] - used) / seconds if stack.cores else 0.0,
    )
