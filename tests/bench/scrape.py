"""The time that a scrape of the metrics takes from a sidecar's event loop, against a limit of one millisecond for 1,000 series."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from cache_sidecar.probe import Target, ask
from tests.bench.comparison import Comparison, Measure, Measured
from tests.bench.machine import BusyMeter
from tests.bench.processes import Process, running
from tests.bench.stack import NAMESPACE, Stack, free_port

_LIMIT = Measured(calls_per_second=1000.0, p50_us=1e3, p99_us=1e3, cpu_s_per_1000=1.0, own=1.0, load_busy=0.0, foreign=0.0)


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparison of this file."""
    return [Comparison(name="scrape", goal=1.0, unit="scrapes/s", by="cpu", sides=partial(_sides, stack))]


@contextmanager
def _sides(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    address, web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "namespace": NAMESPACE,
        "listen_address": address,
        "web_address": web,
        "redis_nodes": stack.redis,
        "postgres_catalog": stack.dsn,
    }
    file = stack.directory / "scrape.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    core = stack.cores.server if stack.cores else None
    arguments = ["cache_sidecar", "serve", "--config", str(file)]
    with running("scrape", arguments, core=core, directory=stack.directory, code=stack.code) as started:
        started.wait_until(lambda: not ask(Target(address)))
        yield partial(_scrape, stack, web, started), lambda _: _LIMIT


def _scrape(stack: Stack, web: str, started: Process, seconds: float) -> Measured:
    """Scrapes for a while. Times are for 1,000 series, of which there are fewer; a scrape's fixed costs count as if there were."""
    series, took = 0, []
    # What the sidecar does besides, which is not the scrapes'.
    resting, before = time.perf_counter(), started.cpu_seconds()
    time.sleep(seconds / 2)
    besides = (started.cpu_seconds() - before) / (time.perf_counter() - resting)
    busy, before, began = BusyMeter(), started.cpu_seconds(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = time.perf_counter()
        connection = http.client.HTTPConnection(web)
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        connection.close()
        took.append(time.perf_counter() - at)
        series = sum(not line.startswith(b"#") for line in body.splitlines())
    whole, used, shares = time.perf_counter() - began, started.cpu_seconds() - before, busy.read()
    took.sort()
    scale = 1000 / series
    return Measured(
        calls_per_second=len(took) / whole / scale,
        p50_us=took[len(took) // 2] * 1e6 * scale,
        p99_us=took[int(len(took) * 0.99)] * 1e6 * scale,
        cpu_s_per_1000=max(0.0, used - besides * whole) / len(took) * 1000 * scale,
        own=used / whole,
        load_busy=shares[stack.cores.load] / whole if stack.cores else 0.0,
        foreign=max(0.0, shares[stack.cores.server] - used) / whole if stack.cores else 0.0,
    )
