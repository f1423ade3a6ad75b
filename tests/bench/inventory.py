"""ReserveInventory against the conditional UPDATE alone, by psycopg: granted and refused.

A reservation is that UPDATE and more: its own row and its items, the ledger of requests, and the publication to Redis.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

from cache_sidecar.v1.inventory_pb2 import ReservationItem
from cache_sidecar.v1.inventory_service_pb2 import ReserveInventoryRequest, ReserveInventoryResponse, SetInventoryRequest
from tests.bench import direct
from tests.bench.comparison import Comparison, Measure, Measured, measured
from tests.bench.load import LoadResult, fetch
from tests.bench.processes import BenchError
from tests.bench.stack import Server, Shape, Stack

_SERVICE = "/cache_sidecar.v1.InventoryService/"
_RESERVE = _SERVICE + "ReserveInventory"
_SHAPE = Shape(connections=1, in_flight=direct.WORKERS)
# More than a machine grants in a second: a repeated request_id would only read the ledger.
_GRANTS_PER_SECOND = 10_000
_PLENTY = 10**12
_OUT_OF_STOCK, _NOT_FOUND = "grpc-status 9", "grpc-status 5"


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    return [
        Comparison(name="reserve_granted", goal=0.3, sides=partial(_granted, stack, "many", products=2000)),
        Comparison(name="reserve_granted_hot", goal=0.3, sides=partial(_granted, stack, "hot", products=1)),
        Comparison(name="reserve_granted_buckets", goal=0.3, sides=partial(_granted, stack, "split", products=1, buckets=16)),
        Comparison(name="reserve_refused", goal=0.2, sides=partial(_refused, stack)),
        Comparison(name="reserve_refused_by_gate", goal=3.0, sides=partial(_refused_by_gate, stack)),
    ]


@contextmanager
def _granted(stack: Stack, kind: str, *, products: int, buckets: int = 1) -> Iterator[tuple[Measure, Measure]]:
    """One piece each of some products in turn; each side has its own products. The reference never has buckets."""
    ours = [f"bench-{kind}-{number}" for number in range(products)]
    theirs = [f"direct-{id}" for id in ours]
    with stack.sidecar() as sidecar:
        _set(sidecar, ours, _PLENTY, buckets=buckets)
        _set(sidecar, theirs, _PLENTY)
        with _direct(stack, "granted", theirs) as reference:
            yield partial(_measure_grants, sidecar, ours), reference


@contextmanager
def _refused(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """Products that are sold out; the UPDATE finds no row."""
    ids = _sold_out_ids()
    with stack.sidecar() as sidecar:
        _sell_out(sidecar, ids)
        with _direct(stack, "refused", ids) as reference:
            yield _refusals(sidecar, ids, _OUT_OF_STOCK), reference


@contextmanager
def _refused_by_gate(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """The reference is the same sidecar where only PostgreSQL can refuse: products that do not exist."""
    ids = _sold_out_ids()
    with stack.sidecar() as sidecar:
        _sell_out(sidecar, ids)
        unknown = [f"bench-unknown-{number}" for number in range(2000)]
        yield _refusals(sidecar, ids, _OUT_OF_STOCK), _refusals(sidecar, unknown, _NOT_FOUND)


def _measure_grants(sidecar: Server, ids: Sequence[str], seconds: float) -> Measured:
    payloads = [_reserving(ids[number % len(ids)]) for number in range(int(seconds * _GRANTS_PER_SECOND))]

    def accept(result: LoadResult) -> None:
        if result.calls >= len(payloads):
            raise BenchError(f"{result.calls} reservations were made with {len(payloads)} request_ids")
        for index, reply in result.samples:
            items = ReserveInventoryResponse.FromString(reply).reservation.items
            if [item.product_id for item in items] != [ids[index % len(ids)]]:
                raise BenchError(f"{ids[index % len(ids)]} was to be reserved, {items} came")

    return sidecar.side(_RESERVE, payloads, shape=_SHAPE, accept=accept)(seconds)


def _refusals(sidecar: Server, ids: Sequence[str], refusal: str) -> Measure:
    payloads = [_reserving(id) for id in ids]
    return sidecar.side(_RESERVE, payloads, shape=_SHAPE, accept=lambda _: None, refusal=refusal)


def _sold_out_ids() -> list[str]:
    """A flash sale has few products."""
    return [f"bench-sold-out-{number}" for number in range(10)]


def _sell_out(sidecar: Server, ids: Sequence[str]) -> None:
    """Sells one piece of each, so that admission has granted requests to remember."""
    _set(sidecar, ids, 1)
    fetch(sidecar.address, _RESERVE, [_reserving(id) for id in ids])


def _set(sidecar: Server, ids: Sequence[str], available: int, *, buckets: int = 1) -> None:
    requests = [SetInventoryRequest(product_id=id, available=available, bucket_count=buckets) for id in ids]
    fetch(sidecar.address, _SERVICE + "SetInventory", [request.SerializeToString() for request in requests])


def _reserving(product_id: str) -> bytes:
    item = ReservationItem(product_id=product_id, quantity=1)
    return ReserveInventoryRequest(items=[item], user_id="bench", request_id=str(uuid4())).SerializeToString()


@contextmanager
def _direct(stack: Stack, kind: str, keys: Sequence[str]) -> Iterator[Measure]:
    file = stack.directory / f"inventory-{kind}.json"
    file.write_text(json.dumps({"dsn": stack.dsn, "keys": list(keys)}))
    with stack.helper("direct_inventory", ["tests.bench.direct_inventory", kind, str(file)]) as (process, _):

        def measure(seconds: float) -> Measured:
            return measured(lambda: direct.ask(process, seconds), process=process, cores=stack.cores)

        yield measure
