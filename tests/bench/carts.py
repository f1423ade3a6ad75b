"""CartService against its alternatives: redis-py for reads, a psycopg transaction for changes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from uuid import uuid4

from google.type.money_pb2 import Money

from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1.cache_pb2 import Source
from cache_sidecar.v1.cart_pb2 import Cart, CartItem
from cache_sidecar.v1.cart_service_pb2 import (
    AddCartItemRequest,
    AddCartItemResponse,
    GetCartRequest,
    GetCartResponse,
    ReplaceCartRequest,
)
from tests.bench import direct
from tests.bench.comparison import Comparison, Measure, Measured, measured
from tests.bench.load import LoadResult, fetch
from tests.bench.processes import BenchError
from tests.bench.stack import NAMESPACE, Server, Shape, Stack

_SERVICE = "/cache_sidecar.v1.CartService/"
_SHAPE = Shape(connections=1, in_flight=direct.WORKERS)
PRODUCTS = [f"SKU-{number:06}" for number in range(1, 6)]
_PRICE = Money(currency_code="EUR", units=29, nanos=990_000_000)
# More than a machine adds in a second: a repeated request_id would only read the ledger.
_ADDS_PER_SECOND = 10_000


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    return [
        Comparison(name="cart_l2_hit", goal=0.15, sides=partial(_l2_hit, stack)),
        Comparison(name="cart_add", goal=0.7, sides=partial(_add, stack)),
    ]


@contextmanager
def _l2_hit(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """Carts of three lines, read in turn."""
    users = users_of("hit", 5000)
    names = KeyNames(NAMESPACE)
    job = {"addresses": stack.redis, "keys": [names.key("cart", user) for user in users]}
    with stack.sidecar() as sidecar:
        carts = [Cart(user_id=user, items=[item(product) for product in PRODUCTS[:3]]) for user in users]
        fetch(sidecar.address, _SERVICE + "ReplaceCart", [ReplaceCartRequest(cart=cart).SerializeToString() for cart in carts])
        payloads = [GetCartRequest(user_id=user).SerializeToString() for user in users]
        until_from_redis(sidecar, payloads)
        with _direct(stack, "redis", job) as reference:
            yield sidecar.side(_SERVICE + "GetCart", payloads, shape=_SHAPE, accept=_from_l2(users)), reference


@contextmanager
def _add(stack: Stack) -> Iterator[tuple[Measure, Measure]]:
    """One more piece of one of five products, into 2,000 carts in turn; each with a request_id of its own."""
    keys = [(user, product) for product in PRODUCTS for user in users_of("add", 2000)]
    job = {"dsn": stack.dsn, "keys": [f"direct-{user} {product}" for user, product in keys]}
    with stack.sidecar() as sidecar, _direct(stack, "postgres", job) as reference:
        yield partial(measure_adds, sidecar, cycle(keys)), reference


def measure_adds(sidecar: Server, keys: Iterator[tuple[str, str]], seconds: float) -> Measured:
    """Adds a piece of a product to a user's cart for each of the keys, (user, product), for so many seconds."""
    asked = list(islice(keys, int(seconds * _ADDS_PER_SECOND)))
    payloads = [
        AddCartItemRequest(user_id=user, item=item(product), request_id=str(uuid4())).SerializeToString()
        for user, product in asked
    ]

    def accept(result: LoadResult) -> None:
        if result.calls >= len(payloads):
            raise BenchError(f"{result.calls} items were added with {len(payloads)} request_ids")
        for index, reply in result.samples:
            cart = AddCartItemResponse.FromString(reply).cart
            if cart.user_id != asked[index][0] or asked[index][1] not in {item.product_id for item in cart.items}:
                raise BenchError(f"{asked[index]} was to be added, {cart} came")

    return sidecar.side(_SERVICE + "AddCartItem", payloads, shape=_SHAPE, accept=accept)(seconds)


@contextmanager
def _direct(stack: Stack, kind: str, job: Mapping[str, object]) -> Iterator[Measure]:
    file = stack.directory / f"carts-{kind}.json"
    file.write_text(json.dumps(job))
    with stack.helper("direct_carts", ["tests.bench.direct_carts", kind, str(file)]) as (process, _):

        def measure(seconds: float) -> Measured:
            return measured(lambda: direct.ask(process, seconds), process=process, cores=stack.cores)

        yield measure


def until_from_redis(sidecar: Server, payloads: Sequence[bytes]) -> None:
    """Waits until every cart is read from Redis: a sidecar that just started has all partitions in quarantine."""

    def are_from_redis() -> bool:
        replies = fetch(sidecar.address, _SERVICE + "GetCart", payloads)
        return all(GetCartResponse.FromString(reply).cache.source == Source.SOURCE_L2 for reply in replies)

    sidecar.process.wait_until(are_from_redis)


def users_of(kind: str, count: int) -> list[str]:
    """Returns the ids of so many users for one comparison."""
    return [f"bench-{kind}-{number}" for number in range(count)]


def item(product_id: str) -> CartItem:
    """Returns a cart's line with one piece of a product."""
    return CartItem(product_id=product_id, quantity=1, unit_price=_PRICE)


def _from_l2(users: Sequence[str]) -> Callable[[LoadResult], None]:
    """Returns what checks that the sampled replies are the carts asked for, from Redis."""

    def accept(result: LoadResult) -> None:
        for index, reply in result.samples:
            got = GetCartResponse.FromString(reply)
            if got.cart.user_id != users[index] or len(got.cart.items) != 3:
                raise BenchError(f"the cart of {users[index]!r} was asked for, {got.cart} came")
            if got.cache.source != Source.SOURCE_L2:
                raise BenchError(f"a reply to be measured from Redis came from {Source.Name(got.cache.source)}")

    return accept
