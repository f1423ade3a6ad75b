"""GetProduct against its alternatives: hits in memory, hits in Redis, reads from PostgreSQL."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from cache_sidecar.server.engines.selection import select
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1.cache_pb2 import Source
from cache_sidecar.v1.product_service_pb2 import (
    BatchGetProductsRequest,
    BatchGetProductsResponse,
    GetProductRequest,
    GetProductResponse,
)
from tests.bench import direct
from tests.bench.comparison import Comparison, Measure, Measured, measured
from tests.bench.load import LoadResult, fetch
from tests.bench.processes import BenchError
from tests.bench.stack import NAMESPACE, Server, Shape, Stack

GET_PRODUCT = "/cache_sidecar.v1.ProductService/GetProduct"
BATCH_GET_PRODUCTS = "/cache_sidecar.v1.ProductService/BatchGetProducts"
CHECK, SERVING = "/grpc.health.v1.Health/Check", b"\x08\x01"
HOT = 1000
"Products that are read repeatedly in the comparison of L1 hits."
_BATCH = 50
"Products in a batch."
_SHAPES = {
    "l1_hit_1": Shape(connections=1, in_flight=1),
    "l1_hit_32": Shape(connections=1, in_flight=32),
    "l1_hit_8x16": Shape(connections=8, in_flight=16),
}
_GOALS = {"l1_hit_1": 1.8, "l1_hit_32": 12.0, "l1_hit_8x16": 12.0}
"With the native engine; the goal of the other one is to come near bare grpc.aio."
_AIO_GOAL = 0.85
_BELOW_L1 = Shape(connections=1, in_flight=direct.WORKERS)


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    is_native = select("auto").is_native
    hits = [
        Comparison(
            name=f"{name}_unix" if on_socket else name,
            goal=_GOALS[name] if is_native else _AIO_GOAL,
            sides=partial(_l1_hit, stack, shape, on_socket=on_socket),
        )
        for on_socket in (False, True)
        for name, shape in _SHAPES.items()
    ]
    return [
        *hits,
        Comparison(name="l1_batch_50", goal=0.2 if is_native else 0.02, sides=partial(_l1_batch, stack)),
        Comparison(name="unary_32", goal=4.0 if is_native else _AIO_GOAL, sides=partial(_unary, stack)),
        Comparison(name="l2_hit", goal=0.33, sides=partial(_l2_hit, stack)),
        Comparison(name="store_miss", goal=0.4, sides=partial(_store_miss, stack)),
        Comparison(name="store_miss_p50", goal=0.67, sides=partial(_store_miss, stack), by="p50"),
        Comparison(name="store_miss_1", goal=0.77, sides=partial(_store_miss, stack, workers=1), by="p50"),
    ]


@contextmanager
def _l1_hit(stack: Stack, shape: Shape, *, on_socket: bool = False) -> Iterator[tuple[Measure, Measure]]:
    """The reference returns one constant reply of the median size."""
    payloads = requests_for(stack.product_ids[:HOT])
    with stack.sidecar(on_socket=on_socket) as sidecar:
        replies = sorted(warm(sidecar, payloads, Source.SOURCE_L1), key=len)
        with stack.bare(GET_PRODUCT, replies[len(replies) // 2], on_socket=on_socket) as bare:
            accept = from_source(Source.SOURCE_L1, stack.product_ids)
            yield (
                sidecar.side(GET_PRODUCT, payloads, shape=shape, accept=accept),
                bare.side(GET_PRODUCT, payloads, shape=shape, accept=lambda _: None),
            )


@contextmanager
def _l1_batch(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """Batches in memory; the reference is a single product of the same sidecar."""
    ids = stack.product_ids[:HOT]
    shape = _SHAPES["l1_hit_32"]
    batches = [ids[first : first + _BATCH] for first in range(0, HOT, _BATCH)]
    payloads = [BatchGetProductsRequest(product_ids=batch).SerializeToString() for batch in batches]

    def accept(result: LoadResult) -> None:
        for index, reply in result.samples:
            got = BatchGetProductsResponse.FromString(reply)
            if [one.product_id for one in got.products] != batches[index] or got.cache.source != Source.SOURCE_L1:
                raise BenchError(f"batch {index} was asked for, something else came")

    with stack.sidecar() as sidecar:
        warm(sidecar, requests_for(ids), Source.SOURCE_L1)
        yield (
            sidecar.side(BATCH_GET_PRODUCTS, payloads, shape=shape, accept=accept),
            sidecar.side(GET_PRODUCT, requests_for(ids), shape=shape, accept=from_source(Source.SOURCE_L1, ids)),
        )


@contextmanager
def _unary(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """The cheapest call that Python answers, with all its middleware; the reference returns the same reply."""
    shape = _SHAPES["l1_hit_32"]

    def accept(result: LoadResult) -> None:
        if any(reply != SERVING for _, reply in result.samples):
            raise BenchError("a sidecar that is measured does not serve")

    with stack.sidecar() as sidecar, stack.bare(CHECK, SERVING) as bare:
        yield sidecar.side(CHECK, [b""], shape=shape, accept=accept), bare.side(CHECK, [b""], shape=shape, accept=accept)


@contextmanager
def _l2_hit(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """With room for one entry in memory, and the products read in turn, every read goes to Redis."""
    ids = stack.product_ids
    payloads = requests_for(ids)
    names = KeyNames(NAMESPACE)
    job = {"addresses": stack.redis, "keys": [names.key("product", id) for id in ids]}
    with stack.sidecar(l1_max_entries=1) as sidecar:
        warm(sidecar, payloads, Source.SOURCE_L2)
        with _direct(stack, "redis", job) as reference:
            accept = from_source(Source.SOURCE_L2, ids)
            yield sidecar.side(GET_PRODUCT, payloads, shape=_BELOW_L1, accept=accept), reference


@contextmanager
def _store_miss(stack: Stack, *, workers: int = direct.WORKERS) -> Iterator[tuple[Measure, Measure]]:
    """Reads with `bypass`, so many at a time; the sidecar also fills the caches with what it read."""
    ids, shape = stack.product_ids, Shape(connections=1, in_flight=workers)
    payloads = requests_for(ids, bypass=True)
    with (
        stack.sidecar() as sidecar,
        _direct(stack, "postgres", {"dsn": stack.dsn, "keys": ids, "workers": workers}) as reference,
    ):
        accept = from_source(Source.SOURCE_STORE, ids)
        yield sidecar.side(GET_PRODUCT, payloads, shape=shape, accept=accept), reference


def warm(sidecar: Server, payloads: Sequence[bytes], source: "Source.ValueType") -> list[bytes]:
    """Reads everything until all of it comes from one tier; returns the replies.

    A sidecar that just started has no freshness lease yet, and it fills Redis after its reply.
    """
    replies: list[bytes] = []

    def is_warm() -> bool:
        replies[:] = fetch(sidecar.address, GET_PRODUCT, payloads)
        return all(GetProductResponse.FromString(reply).cache.source == source for reply in replies)

    sidecar.process.wait_until(is_warm)
    return replies


@contextmanager
def _direct(stack: Stack, kind: str, job: Mapping[str, object]) -> Iterator[Measure]:
    with stack.direct(kind, job) as process:

        def measure(seconds: float) -> Measured:
            return measured(lambda: direct.ask(process, seconds), process=process, cores=stack.cores)

        yield measure


def requests_for(ids: Sequence[str], *, bypass: bool = False) -> list[bytes]:
    requests = [GetProductRequest(product_id=id) for id in ids]
    if bypass:
        for request in requests:
            request.options.bypass = True
    return [request.SerializeToString() for request in requests]


def from_source(source: "Source.ValueType", ids: Sequence[str]) -> Callable[[LoadResult], None]:
    """Returns what checks that the sampled replies are the products asked for, from one tier."""

    def accept(result: LoadResult) -> None:
        for index, reply in result.samples:
            got = GetProductResponse.FromString(reply)
            if got.product.product_id != ids[index]:
                raise BenchError(f"product {ids[index]!r} was asked for, {got.product.product_id!r} came")
            if got.cache.source != source:
                came = Source.Name(got.cache.source)
                raise BenchError(f"a reply to be measured from {Source.Name(source)} came from {came}")

    return accept
