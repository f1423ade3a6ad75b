"""GetProductPage against the calls that its parts are, one after the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from google.protobuf.message import Message

from cache_sidecar.v1.cart_pb2 import Cart
from cache_sidecar.v1.cart_service_pb2 import GetCartRequest, ReplaceCartRequest
from cache_sidecar.v1.inventory_service_pb2 import GetInventoryRequest, SetInventoryRequest
from cache_sidecar.v1.product_service_pb2 import BatchGetProductsRequest, GetProductRequest
from cache_sidecar.v1.recommendation_pb2 import RecommendationPlacement
from cache_sidecar.v1.recommendation_service_pb2 import GetRecommendationsRequest, GetRecommendationsResponse
from cache_sidecar.v1.session_service_pb2 import CreateSessionRequest, CreateSessionResponse, GetSessionRequest
from cache_sidecar.v1.storefront_service_pb2 import GetProductPageRequest, GetProductPageResponse
from cache_sidecar.v1.user_event_pb2 import USER_EVENT_TYPE_PURCHASE_COMPLETE, UserEvent, UserEventProduct
from cache_sidecar.v1.user_event_service_pb2 import WriteUserEventsRequest
from tests.bench import direct
from tests.bench.carts import item, users_of
from tests.bench.comparison import By, Comparison, Measure, Measured
from tests.bench.load import LoadResult, fetch
from tests.bench.processes import BenchError
from tests.bench.stack import Server, Shape, Stack

_V1 = "/cache_sidecar.v1."
_PAGE = "StorefrontService/GetProductPage"
_GOALS: Sequence[tuple[str, int, By, float]] = (
    ("page_1", 1, "p50", 2.0),
    ("page_32", direct.WORKERS, "calls", 1.5),
)
# Visitors, each of whom views one of as many products, and products that are bought together.
_VISITORS, _BASKET = 200, 11


class _Call(NamedTuple):
    """A method, and its requests in turn."""

    method: str
    payloads: Sequence[bytes]


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    return [
        Comparison(name=name, goal=goal, sides=partial(_product_page, stack, in_flight), by=by)
        for name, in_flight, by, goal in _GOALS
    ]


@contextmanager
def _product_page(stack: Stack, in_flight: int) -> Iterator[tuple[Measure, Measure]]:
    """A product with its stock, ten recommendations with their products, a cart of three lines and a session."""
    shape = Shape(connections=1, in_flight=in_flight)
    users, products = users_of("page", _VISITORS), stack.product_ids[:_VISITORS]
    with stack.sidecar() as sidecar:
        _fetch(sidecar, "InventoryService/SetInventory", [SetInventoryRequest(product_id=id, available=100) for id in products])
        carts = [ReplaceCartRequest(cart=Cart(user_id=user, items=map(item, products[:3]))) for user in users]
        _fetch(sidecar, "CartService/ReplaceCart", carts)
        created = _fetch(sidecar, "SessionService/CreateSession", [CreateSessionRequest(user_id=user) for user in users])
        sessions = [CreateSessionResponse.FromString(reply).session_id for reply in created]
        recommended = _learn(sidecar, products)
        visits = list(zip(products, users, sessions, strict=True))
        page = _Call(
            _PAGE,
            _serialize([GetProductPageRequest(product_id=id, user_id=user, session_id=secret) for id, user, secret in visits]),
        )
        parts = [
            _Call("SessionService/GetSession", _serialize([GetSessionRequest(session_id=secret) for secret in sessions])),
            _Call("CartService/GetCart", _serialize([GetCartRequest(user_id=user) for user in users])),
            _Call("ProductService/GetProduct", _serialize([GetProductRequest(product_id=id) for id in products])),
            _Call("InventoryService/GetInventory", _serialize([GetInventoryRequest(product_id=id) for id in products])),
            _Call("RecommendationService/GetRecommendations", _serialize([_asking(id, user) for id, user, _ in visits])),
            _Call("ProductService/BatchGetProducts", _serialize([BatchGetProductsRequest(product_ids=recommended)])),
        ]
        for call in (*parts, page):  # into memory and Redis
            fetch(sidecar.address, _V1 + call.method, call.payloads, in_flight=4)
        ours = sidecar.side(_V1 + page.method, page.payloads, shape=shape, accept=partial(_accept, products))
        theirs = [sidecar.side(_V1 + call.method, call.payloads, shape=shape, accept=lambda _: None) for call in parts]
        yield ours, partial(_one_after_the_other, theirs)


def _one_after_the_other(calls: Sequence[Measure], seconds: float) -> Measured:
    """Measures each of the calls that are made for one page, and returns what a page costs: the sum of them."""
    measured = [call(seconds / len(calls)) for call in calls]
    return Measured(
        calls_per_second=1 / sum(1 / one.calls_per_second for one in measured),
        p50_us=sum(one.p50_us for one in measured),
        p99_us=sum(one.p99_us for one in measured),
        cpu_s_per_1000=sum(one.cpu_s_per_1000 for one in measured),
        own=sum(one.own for one in measured) / len(measured),
        load_busy=sum(one.load_busy for one in measured) / len(measured),
        foreign=sum(one.foreign for one in measured) / len(measured),
    )


def _learn(sidecar: Server, products: Sequence[str]) -> list[str]:
    """Has a basket be bought until it is recommended on the page of each product; returns what is."""
    bought = [UserEventProduct(product_id=id, quantity=1) for id in products[:_BASKET]]
    event = UserEvent(event_type=USER_EVENT_TYPE_PURCHASE_COMPLETE, user_id="bench-buyer", products=bought)
    _fetch(sidecar, "UserEventService/WriteUserEvents", [WriteUserEventsRequest(events=[event])])

    def recommended() -> list[str]:
        (reply,) = _fetch(sidecar, "RecommendationService/GetRecommendations", [_asking(products[-1], "")])
        return [one.product_id for one in GetRecommendationsResponse.FromString(reply).recommendations]

    sidecar.process.wait_until(lambda: len(recommended()) == _BASKET - 1)
    return recommended()


def _asking(product_id: str, user_id: str) -> GetRecommendationsRequest:
    return GetRecommendationsRequest(
        user_id=user_id,
        placement=RecommendationPlacement.RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL,
        context_product_ids=[product_id],
    )


def _fetch(sidecar: Server, method: str, requests: Sequence[Message]) -> list[bytes]:
    return fetch(sidecar.address, _V1 + method, _serialize(requests), in_flight=4)


def _serialize(requests: Sequence[Message]) -> list[bytes]:
    return [request.SerializeToString() for request in requests]


def _accept(products: Sequence[str], result: LoadResult) -> None:
    """Raises BenchError if a page has not all of its parts."""
    for index, reply in result.samples:
        page = GetProductPageResponse.FromString(reply)
        if page.product.product.product_id != products[index] or page.cart.item_count != 3:
            raise BenchError(f"the page of {products[index]!r} was asked for, {page} came")
        if len(page.recommendations.products.products) < _BASKET - 1 or not page.session.HasField("session"):
            raise BenchError(f"a page without all of its parts came: {page}")
