"""GetCart at more than a sidecar's capacity: calls still answered in time, and how fast the others are refused.

The load is open: calls start at their rate independently of replies, as those of customers do, and latency counts from when a
call was due. The capacity is measured within the same minutes, with 8 x 16 calls in flight.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cache_sidecar.v1.cart_pb2 import Cart
from cache_sidecar.v1.cart_service_pb2 import GetCartRequest, ReplaceCartRequest
from tests.bench import carts, fast_load
from tests.bench.comparison import By, Comparison, Measure, Measured, measured
from tests.bench.load import LoadResult, fetch
from tests.bench.stack import Server, Stack

_GET_CART, _REPLACE_CART = (f"/cache_sidecar.v1.CartService/{name}" for name in ("GetCart", "ReplaceCart"))
_CARTS = 5000
_CLOSED: dict[str, Any] = {"connections": 8, "in_flight": 16}
# No connection has more calls in flight than the server accepts on one.
_CONNECTIONS = 30
# Nanoseconds in which a reply is useful, and the goals for the p99 of replies and refusals, in microseconds.
_IN_TIME = 200_000_000
_ANSWERED_US, _REFUSED_US = 250_000, 10_000
# The share of its capacity that a sidecar still answers under overload.
_GOAL = 0.8


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some of the calls of a load."""

    latencies: Sequence[int]
    calls: int
    seconds: float

    def percentile_us(self, percent: float) -> float:
        """Returns a percentile of the latency in microseconds; 0 without calls."""
        return self.latencies[int((len(self.latencies) - 1) * percent / 100)] / 1000 if self.latencies else 0.0


def _answered(result: LoadResult, seconds: float) -> _Part:
    in_time = sum(latency <= _IN_TIME for latency in result.latencies)
    return _Part(latencies=result.latencies, calls=max(1, in_time), seconds=seconds)


def _refused(result: LoadResult, seconds: float) -> _Part:
    return _Part(latencies=result.refusals, calls=max(1, len(result.refusals)), seconds=seconds)


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns those of this file: none without the load generator in Rust."""
    if not fast_load.can_be_built():
        return []

    def row(
        name: str, times: float, goal: float, *, by: By = "calls", part: Any = _answered, bound_us: float = 0
    ) -> Comparison:
        return Comparison(name=name, goal=goal, by=by, sides=partial(_sides, stack, times=times, part=part, bound_us=bound_us))

    return [
        row("overload_1", 1, _GOAL),
        row("overload_2", 2, _GOAL),
        row("overload_5", 5, _GOAL),
        row("overload_2_answered", 2, 1.0, by="p99", bound_us=_ANSWERED_US),
        row("overload_5_answered", 5, 1.0, by="p99", bound_us=_ANSWERED_US),
        row("overload_5_refused", 5, 1.0, by="p99", part=_refused, bound_us=_REFUSED_US),
    ]


@contextmanager
def _sides(
    stack: Stack, *, times: float, part: Callable[[LoadResult, float], _Part], bound_us: float
) -> Iterator[tuple[Measure, Measure]]:
    """The reference is the sidecar's capacity; its p99 stands for the bound."""
    users = [f"overload-{number}" for number in range(_CARTS)]
    with stack.sidecar() as sidecar:
        filled = [Cart(user_id=user, items=[carts.item(product) for product in carts.PRODUCTS[:3]]) for user in users]
        fetch(sidecar.address, _REPLACE_CART, [ReplaceCartRequest(cart=cart).SerializeToString() for cart in filled])
        payloads = [GetCartRequest(user_id=user).SerializeToString() for user in users]
        carts.until_from_redis(sidecar, payloads)
        load = partial(fast_load.run, sidecar.address, _GET_CART, payloads)
        capacity = load(**_CLOSED, seconds=1).check().calls_per_second

        def ours(seconds: float) -> Measured:
            rate = times * capacity
            return _measured(
                sidecar, lambda: part(load(connections=_CONNECTIONS, in_flight=0, seconds=seconds, rate=rate), seconds)
            )

        def reference(seconds: float) -> Measured:
            nonlocal capacity
            found = _measured(sidecar, lambda: _answered(load(**_CLOSED, seconds=seconds).check(), seconds))
            capacity = found.calls_per_second
            return found if not bound_us else replace(found, p99_us=bound_us)

        yield ours, reference


def _measured(sidecar: Server, load: Callable[[], _Part]) -> Measured:
    return measured(load, process=sidecar.process, cores=sidecar.cores)
