"""The native engine against other servers, against grpc.aio under the same sidecar, and against itself with more data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from cache_sidecar.server.engines.selection import select
from cache_sidecar.v1.cache_pb2 import Source
from cache_sidecar.v1.product_service_pb2 import BatchGetProductsRequest, BatchGetProductsResponse
from tests.bench import direct, go
from tests.bench.comparison import Comparison, Measure
from tests.bench.load import fetch
from tests.bench.products import BATCH_GET_PRODUCTS, GET_PRODUCT, HOT, from_source, requests_for, warm
from tests.bench.stack import Server, Shape, Stack

_SHAPE = Shape(connections=1, in_flight=32)
_BELOW_L1 = Shape(connections=1, in_flight=direct.WORKERS)
_PACED = Shape(connections=4, rate=1000.0)
# The goal is a p99 of 3 ms, where the engine that waits for the GIL takes the 50 ms for which it is held.
_HELD_GOAL = 50 / 3
_PER_BATCH = 500
# Room for the entire catalogue.
_ROOMY = {"l1_max_bytes": 1 << 30}


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns those of this file: none without the native engine, and one less without Go."""
    if not select("auto").is_native:
        return []
    against_go = Comparison(name="l1_hit_32_go", goal=1.0, sides=partial(_against_go, stack), by="cpu")
    return [
        *([against_go] if go.is_installed() else []),
        Comparison(name="l1_hit_100k", goal=1 / 1.3, sides=partial(_many_entries, stack), by="cpu"),
        Comparison(name="l1_hit_gil_held", goal=_HELD_GOAL, sides=partial(_gil_held, stack), by="p99"),
        Comparison(name="l2_hit_engines", goal=2.5, sides=partial(_l2_of_both, stack)),
    ]


@contextmanager
def _against_go(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """The reference is a bare grpc-go servicer that returns one constant reply of the median size."""
    ids = stack.product_ids[:HOT]
    with stack.sidecar() as sidecar:
        replies = sorted(warm(sidecar, requests_for(ids), Source.SOURCE_L1), key=len)
        with stack.bare_go(GET_PRODUCT, replies[len(replies) // 2]) as bare:
            reference = bare.side(GET_PRODUCT, requests_for(ids), shape=_SHAPE, accept=lambda _: None)
            yield _hits(sidecar, ids), reference


@contextmanager
def _many_entries(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """All of the catalogue in memory, read in turn; the reference has, and reads, 1,000 products."""
    with stack.sidecar(**_ROOMY) as full, stack.sidecar(**_ROOMY) as small:
        _fill(full, stack.catalogue_ids)
        _fill(small, stack.catalogue_ids[:HOT])
        yield _hits(full, stack.catalogue_ids), _hits(small, stack.catalogue_ids[:HOT])


@contextmanager
def _gil_held(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """Both hold the GIL 50 ms in every 250; calls start at a fixed rate, so that waiting ones do not delay others."""
    ids = stack.product_ids[:HOT]
    with (
        stack.sidecar(program="tests.bench.held") as native,
        stack.sidecar(program="tests.bench.held", engine="aio") as aio,
    ):
        for sidecar in (native, aio):
            _fill(sidecar, ids)
        yield _hits(native, ids, _PACED), _hits(aio, ids, _PACED)


@contextmanager
def _l2_of_both(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """With room for one entry in memory, every read goes to Redis; the reference is the same sidecar on grpc.aio."""
    ids = stack.product_ids
    with stack.sidecar(l1_max_entries=1) as native, stack.sidecar(l1_max_entries=1, engine="aio") as aio:
        for sidecar in (native, aio):
            warm(sidecar, requests_for(ids), Source.SOURCE_L2)
        yield _hits(native, ids, _BELOW_L1, Source.SOURCE_L2), _hits(aio, ids, _BELOW_L1, Source.SOURCE_L2)


def _hits(sidecar: Server, ids: Sequence[str], shape: Shape = _SHAPE, source: "Source.ValueType" = Source.SOURCE_L1) -> Measure:
    return sidecar.side(GET_PRODUCT, requests_for(ids), shape=shape, accept=from_source(source, ids))


def _fill(sidecar: Server, ids: Sequence[str]) -> None:
    """Loads products into memory, many at a time."""
    batches = [ids[first : first + _PER_BATCH] for first in range(0, len(ids), _PER_BATCH)]
    payloads = [BatchGetProductsRequest(product_ids=batch).SerializeToString() for batch in batches]

    def is_full() -> bool:
        replies = fetch(sidecar.address, BATCH_GET_PRODUCTS, payloads, in_flight=4)
        return all(BatchGetProductsResponse.FromString(reply).cache.source == Source.SOURCE_L1 for reply in replies)

    sidecar.process.wait_until(is_full)
