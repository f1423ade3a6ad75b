"""What clients, interceptors and meshes send along, against the same calls without it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from cache_sidecar.server.engines.selection import select
from cache_sidecar.v1.cache_pb2 import Source
from tests.bench import fast_load
from tests.bench.comparison import Comparison, Measure
from tests.bench.connection import LoadError
from tests.bench.load import LoadResult
from tests.bench.products import CHECK, GET_PRODUCT, HOT, SERVING, from_source, requests_for, warm
from tests.bench.stack import Shape, Stack

_SHAPE = Shape(connections=4, in_flight=16)
_GOAL = 0.9
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
_SENT: dict[str, Sequence[tuple[str, str]]] = {
    "accept_encoding": [("grpc-accept-encoding", "identity, deflate, gzip")],
    "request_id": [("x-request-id", "5f3c9a70-1f0e-4c7e-9df1-6a3f3a0d8f11")],
    "traceparent": [("traceparent", f"00-{_TRACE}-01"), ("tracestate", "shop=1")],
    "baggage": [("baggage", "user=7,shop=eu")],
    "b3": [("x-b3-traceid", _TRACE[:32]), ("x-b3-spanid", _TRACE[33:]), ("x-b3-sampled", "1")],
    "trace_bin": [("grpc-trace-bin", "AABL+S81d7NNo6POkp0ODkc2AQDwZ6oLqQK3AgE")],
    "authorization": [("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.c2ln")],
    "forwarded": [("x-forwarded-proto", "https"), ("x-forwarded-for", "10.1.2.3"), ("x-envoy-attempt-count", "1")],
}
_GZIP = {"is_packed": True}


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns those of this file: none without the native engine, and without cargo, for the load generator."""
    if not select("auto").is_native or not fast_load.can_be_built():
        return []
    sent: dict[str, dict[str, Any]] = {name: {"metadata": metadata} for name, metadata in _SENT.items()}
    return [
        *(
            Comparison(name=f"hit_with_{name}", goal=_GOAL, by="cpu", sides=partial(_hit, stack, one))
            for name, one in sent.items()
        ),
        Comparison(name="hit_with_gzip", goal=0.5, by="cpu", sides=partial(_hit, stack, _GZIP)),
        Comparison(name="unary_with_trace_bin", goal=_GOAL, by="cpu", sides=partial(_unary, stack, sent["trace_bin"])),
        Comparison(name="unary_with_gzip", goal=_GOAL, by="cpu", sides=partial(_unary, stack, _GZIP)),
    ]


@contextmanager
def _hit(stack: Stack, sent: dict[str, Any]) -> Iterator[tuple[Measure, Measure]]:
    ids = stack.product_ids[:HOT]
    payloads = requests_for(ids)
    accept = from_source(Source.SOURCE_L1, ids)
    with stack.sidecar() as sidecar:
        warm(sidecar, payloads, Source.SOURCE_L1)
        bare = sidecar.side(GET_PRODUCT, payloads, shape=_SHAPE, accept=accept)
        yield sidecar.side(GET_PRODUCT, payloads, shape=_SHAPE, accept=accept, **sent), bare


@contextmanager
def _unary(stack: Stack, sent: dict[str, Any]) -> Iterator[tuple[Measure, Measure]]:
    """The cheapest call that Python answers."""

    def accept(result: LoadResult) -> None:
        if any(reply != SERVING for _, reply in result.samples):
            raise LoadError("a sidecar that is measured does not serve")

    with stack.sidecar() as sidecar:
        bare = sidecar.side(CHECK, [b""], shape=_SHAPE, accept=accept)
        yield sidecar.side(CHECK, [b""], shape=_SHAPE, accept=accept, **sent), bare
