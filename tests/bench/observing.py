"""What it costs to be observed: a sidecar whose metrics are scraped, or that makes traces, against the same one without."""

import contextlib
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import cycle
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from cache_sidecar.v1.cache_pb2 import Source
from tests.bench import direct
from tests.bench.carts import PRODUCTS, measure_adds, users_of
from tests.bench.comparison import Comparison, Measure
from tests.bench.products import GET_PRODUCT, HOT, from_source, requests_for, warm
from tests.bench.stack import Server, Shape, Stack, free_port

_HITS = Shape(connections=1, in_flight=32)
_BELOW_L1 = Shape(connections=1, in_flight=direct.WORKERS)
_SCRAPE_EVERY = 1.0
"Seconds; a Prometheus usually scrapes every 15 or 30."

Way = Callable[[], AbstractContextManager[dict[str, object]]]
Call = Callable[[Stack, Server], Measure]


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file: each kind of call in each way of observing, and Redis reads that are all traced."""
    ways: dict[str, Way] = {"scraped": _scraped, "traces_on": partial(_traced, 0.0), "traced_1_percent": partial(_traced, 0.01)}
    calls: dict[str, Call] = {"l1_hit": _hit, "l2_hit": _redis_read, "cart_add": _write}
    found = [
        Comparison(name=f"{call}_{way}", goal=0.95, by="cpu", sides=partial(_sides, stack, calls[call], ways[way], call))
        for call in calls
        for way in ways
    ]
    all_traced = partial(_sides, stack, _redis_read, partial(_traced, 1.0), "l2_hit")
    return [*found, Comparison(name="l2_hit_traced_all", goal=0.4, by="cpu", sides=all_traced)]


@contextmanager
def _sides(stack: Stack, call: Call, way: Way, name: str) -> Iterator[tuple[Measure, Measure]]:
    # With room for one entry in memory, products are read from Redis.
    settings = {"l1_max_entries": 1} if name == "l2_hit" else {}
    with ExitStack() as running:
        observed = running.enter_context(stack.sidecar(**settings, **running.enter_context(way())))
        plain = running.enter_context(stack.sidecar(**settings))
        yield call(stack, observed), call(stack, plain)


def _hit(stack: Stack, sidecar: Server) -> Measure:
    ids = stack.product_ids[:HOT]
    payloads = requests_for(ids)
    warm(sidecar, payloads, Source.SOURCE_L1)
    return sidecar.side(GET_PRODUCT, payloads, shape=_HITS, accept=from_source(Source.SOURCE_L1, ids))


def _redis_read(stack: Stack, sidecar: Server) -> Measure:
    payloads = requests_for(stack.product_ids)
    warm(sidecar, payloads, Source.SOURCE_L2)
    return sidecar.side(GET_PRODUCT, payloads, shape=_BELOW_L1, accept=from_source(Source.SOURCE_L2, stack.product_ids))


def _write(_stack: Stack, sidecar: Server) -> Measure:
    keys = [(user, product) for product in PRODUCTS for user in users_of(f"add-{sidecar.address}", 2000)]
    return partial(measure_adds, sidecar, cycle(keys))


@contextmanager
def _scraped() -> Iterator[dict[str, object]]:
    """Scrapes a sidecar from a thread of this process, where the load comes from; yields its settings."""
    address, stopping = f"127.0.0.1:{free_port()}", threading.Event()

    def scrape() -> None:
        while not stopping.wait(_SCRAPE_EVERY):
            # Before it listens, and after it has ended.
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
                reply.read()

    with ThreadPoolExecutor(1) as threads:
        scraping = threads.submit(scrape)
        try:
            yield {"web_address": address}
        finally:
            stopping.set()
            scraping.result()


class _Discarding(TraceServiceServicer):
    """A collector that keeps nothing."""

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        """Takes spans."""
        return pb.ExportTraceServiceResponse()


@contextmanager
def _traced(ratio: float) -> Iterator[dict[str, object]]:
    """Runs a collector in threads of this process; yields the settings of a sidecar that traces this share of its calls."""
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_TraceServiceServicer_to_server(_Discarding(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield {"trace_endpoint": f"127.0.0.1:{port}", "trace_ratio": ratio}
        finally:
            server.stop(None).wait()
