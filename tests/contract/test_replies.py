"""Every reply of every method, from every tier, on both engines: bytes that every protobuf runtime reads the same way."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2  # noqa: F401  # in the pool of descriptors
from grpc_reflection.v1alpha import reflection_pb2  # noqa: F401

from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.cart_pb2 import CartChange
from tests.support import strict
from tests.support.customers import item, new_request
from tests.support.databases import run
from tests.support.recommended import learn_baskets
from tests.support.shop import DETAILS, L1, L2, STORE, Open, Shop, product
from tests.support.until import DEADLINE

V1 = "cache_sidecar.v1"
SERVICES = [
    *(
        f"{V1}.{noun}Service"
        for noun in ("Product", "Session", "Cart", "Inventory", "UserEvent", "Recommendation", "Storefront", "Admin")
    ),
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
]
BYPASS = ReadOptions(bypass=True)


class Strict:
    """Calls methods by their names, and checks the bytes of what comes back before they are parsed."""

    def __init__(self, shop: Shop) -> None:
        self._channel = shop.channel
        self.checked: set[tuple[str, str]] = set()
        "Methods with what answered: the name of a tier, `repeat`, the name of a status, or nothing."
        self.problems: set[str] = set()

    async def __call__(self, service: str, method: str, *, note: str = "", **fields: Any) -> Any:
        """Makes a unary call, and returns the reply."""
        call, request = self._call(service, method, fields)
        reply = self._read(service, method, await call(request, timeout=DEADLINE))
        self.checked.add((method, note or _source(reply)))
        return reply

    async def refused(self, service: str, method: str, **fields: Any) -> str:
        """Makes a unary call that is to fail, and returns the reason."""
        call, request = self._call(service, method, fields)
        try:
            await call(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            (details,) = [value for key, value in error.trailing_metadata() or () if key == DETAILS]
            strict.check_as(bytes(details), status_pb2.Status)
            self.checked.add((method, error.code().name))
            info = ErrorInfo()
            status_pb2.Status.FromString(bytes(details)).details[0].Unpack(info)
            return info.reason
        raise AssertionError("the call succeeded")

    async def watch(
        self, service: str, method: str, count: int, *, then: Callable[[], Any] | None = None, **fields: Any
    ) -> list[Any]:
        """Returns the first messages of a stream; `then` is done when one less is there."""
        call, request = self._call(service, method, fields)
        stream, found = call(request, timeout=DEADLINE), []
        async for data in stream:
            found.append(self._read(service, method, data))
            self.checked.add((method, "stream"))
            if then is not None and len(found) == count - 1:
                await then()
            if len(found) == count:
                stream.cancel()
                return found
        raise AssertionError("the stream ended")

    def _call(self, service: str, method: str, fields: dict[str, Any]) -> tuple[Any, Any]:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
        request = message_factory.GetMessageClass(found.input_type)(**fields).SerializeToString()
        path = f"/{service}/{method}"
        if found.client_streaming:
            return (self._channel.stream_stream if found.server_streaming else self._channel.stream_unary)(path), iter(
                [request]
            )
        return (self._channel.unary_stream if found.server_streaming else self._channel.unary_unary)(path), request

    def _read(self, service: str, method: str, data: bytes) -> Any:
        kind = descriptor_pool.Default().FindMethodByName(f"{service}.{method}").output_type
        try:
            strict.check(data, kind)
        except strict.NotStrict as problem:
            self.problems.add(str(problem))
        return message_factory.GetMessageClass(kind).FromString(data)


def _source(reply: Any) -> str:
    if "cache" not in reply.DESCRIPTOR.fields_by_name:
        return ""
    return {L1: "L1", L2: "L2", STORE: "STORE"}[reply.cache.source]


async def test_no_reply_says_anything_twice(open_shop: Open, database: str) -> None:
    async with open_shop() as shop, open_shop() as other:
        first, second = Strict(shop), Strict(other)
        await run(database, "SELECT cache_sidecar.index_products(1)")
        await products(first, second)
        await sessions(first, second)
        await carts(first, second)
        await inventory(first, second)
        await user_events(first)
        await learn_baskets(database, ("u", ["a"]))
        await recommendations(first, second)
        await pages(first, second)
        await the_rest(first)
    assert not first.problems | second.problems
    checked = first.checked | second.checked
    pool = descriptor_pool.Default()
    everything = {method.name for name in SERVICES for method in pool.FindServiceByName(name).methods}
    assert {method for method, _ in checked} == everything
    reads = {("GetProduct", "L1"), ("BatchGetProducts", "L1")}
    reads |= {(f"Get{noun}", tier) for noun in ("Product", "Session", "Cart", "Inventory") for tier in ("L2", "STORE")}
    reads |= {("GetRecommendations", tier) for tier in ("L1", "L2", "STORE")}
    reads |= {(f"BatchGet{nouns}", tier) for nouns in ("Products", "Inventory") for tier in ("L2", "STORE")}
    assert reads <= checked
    mutations = {method.name for method in _mutations()}
    assert mutations == {method for method, note in checked if note == "repeat"}


def _mutations() -> list[Any]:
    methods = [method for name in SERVICES for method in descriptor_pool.Default().FindServiceByName(name).methods]
    return [method for method in methods if "request_id" in method.input_type.fields_by_name]


async def twice(strictly: Strict, service: str, method: str, **fields: Any) -> Any:
    """Makes a change, then the same request again, which the ledger answers; then returns the reply."""
    fields["request_id"] = new_request()
    made = await strictly(service, method, **fields)
    again = await strictly(service, method, note="repeat", **fields)
    # A session_id is told once: a repeat issues another one.
    assert made == again or "session_id" in made.DESCRIPTOR.fields_by_name
    return again


async def everything_is_forgotten(strictly: Strict, dataset: str) -> None:
    await strictly(f"{V1}.AdminService", "Invalidate", dataset=dataset, all=True)


async def products(first: Strict, second: Strict) -> None:
    service = f"{V1}.ProductService"
    created = (
        await twice(first, service, "CreateProduct", product=product("a", categories=["x"], attributes={"k": "v"}))
    ).product
    await first(service, "CreateProduct", product=product("b"))
    assert (await second(service, "GetProduct", product_id="a")).product == created
    for strictly in (second, first):
        await strictly(service, "GetProduct", product_id="a", options=BYPASS)
        await strictly(service, "GetProduct", product_id="a")
        await strictly(service, "BatchGetProducts", product_ids=["a", "nobody", "b"], options=BYPASS)
        reply = await strictly(service, "BatchGetProducts", product_ids=["a", "b"])
        assert [found.product_id for found in reply.products] == ["a", "b"]
    updated = await twice(first, service, "UpdateProduct", product={"product_id": "b", "title": "B"})
    assert (await second(service, "BatchGetProducts", product_ids=["b"], options=BYPASS)).products[0] == updated.product
    # One that the other sidecar holds in Redis alone.
    third = (await first(service, "CreateProduct", product=product("c"))).product
    assert (await second(service, "BatchGetProducts", product_ids=["c"])).products[0] == third
    for include_inactive in (False, True):
        listed = await first(service, "ListProducts", page_size=1, include_inactive=include_inactive)
        assert len(listed.products) == 1
    await first(service, "GetCategories")
    await first(service, "SearchProducts", query="mug", facets=["brand"])
    assert await first.refused(service, "GetProduct", product_id="nobody") == "NOT_FOUND"
    assert await first.refused(service, "GetProduct") == "INVALID_REQUEST"
    assert (
        await first.refused(service, "UpdateProduct", product={"product_id": "a", "title": "x", "etag": "0"}) == "ETAG_MISMATCH"
    )
    await first.watch(service, "WatchProducts", 2, after_version=int(created.etag, 16))
    await twice(first, service, "DeleteProduct", product_id="c")


async def sessions(first: Strict, second: Strict) -> None:
    service = f"{V1}.SessionService"
    fields = {"user_id": "u", "attributes": {"a": "1", "b": "2"}, "client": {"ip_address": "192.0.2.7"}}
    created = await twice(first, service, "CreateSession", **fields)
    id = created.session_id
    for strictly in (second, first):
        found = (await strictly(service, "GetSession", session_id=id)).session
        assert found.attributes == {"a": "1", "b": "2"}
        assert found.expire_time.seconds >= created.session.expire_time.seconds > 0
        assert found.etag == created.session.etag
    await everything_is_forgotten(first, "session")
    assert (await second(service, "GetSession", session_id=id)).session.user_id == "u"
    await first(service, "TouchSession", session_id=id)
    changed = {"session_id": id, "attributes": {"a": "3"}}
    updated = (await twice(first, service, "UpdateSession", session=changed, update_mask={"paths": ["attributes"]})).session
    found = (await second(service, "GetSession", session_id=id)).session
    assert (found.attributes, found.etag) == ({"a": "3", "b": "2"}, updated.etag)
    rotated = await twice(first, service, "RotateSession", session_id=id)
    assert (await second(service, "GetSession", session_id=rotated.session_id)).session.attributes["a"] == "3"
    assert len((await first(service, "ListUserSessions", user_id="u")).sessions) == 1
    await twice(first, service, "DeleteSession", session_id=rotated.session_id)
    assert await second.refused(service, "GetSession", session_id=id) == "NOT_FOUND"
    await first(service, "CreateSession", user_id="u")
    await twice(first, service, "DeleteUserSessions", user_id="u")


async def carts(first: Strict, second: Strict) -> None:
    service = f"{V1}.CartService"
    for strictly in (first, second, second):
        assert (await strictly(service, "GetCart", user_id="nobody")).cart.etag == "0"
    assert (await twice(first, service, "AddCartItem", user_id="u", item=item("a", size="L"))).cart.etag != "0"
    cart = (await twice(first, service, "AddCartItem", user_id="u", item=item("b", 2, "2.50 EUR"))).cart
    for strictly in (first, second):
        assert (await strictly(service, "GetCart", user_id="u")).cart == cart
    await everything_is_forgotten(first, "cart")
    for strictly in (second, first):
        assert (await strictly(service, "GetCart", user_id="u")).cart == cart
    assert [line.product_id for line in cart.items] == ["a", "b"]
    replaced = await twice(first, service, "ReplaceCart", cart=cart)
    assert (await second(service, "GetCart", user_id="u")).cart == replaced.cart
    assert await first.refused(service, "ReplaceCart", cart={"user_id": "u", "etag": "1"}) == "ETAG_MISMATCH"
    await twice(first, service, "SetCartItemQuantity", user_id="u", product_id="b", quantity=3)
    await first(service, "SetCartItemQuantity", user_id="u", product_id="b", quantity=4)
    await twice(first, service, "RemoveCartItem", user_id="u", product_id="a", options={"size": "L"})
    await first(service, "AddCartItem", user_id="guest", item=item("c"), request_id=new_request())
    await twice(first, service, "MergeCarts", user_id="u", guest_user_id="guest")
    changes = [CartChange(add_item=item("d")), CartChange(remove_item={"product_id": "c"})]
    applied = (await twice(first, service, "ApplyCartChanges", user_id="u", changes=changes)).cart
    assert (await second(service, "GetCart", user_id="u")).cart == applied
    add = {"user_id": "u", "item": item("e")}
    (one, other) = await first.watch(
        service,
        "WatchCart",
        2,
        then=lambda: second(service, "AddCartItem", request_id=new_request(), **add),
        user_id="u",
    )
    assert (one.cart, len(other.cart.items)) == (applied, len(applied.items) + 1)
    # The nothing that `idle_for` allows is a second.
    listed = None
    while not listed:
        listed = (await first(service, "ListAbandonedCarts", idle_for={"seconds": 1})).carts
        await asyncio.sleep(0.05)
    await twice(first, service, "ClearCart", user_id="u")


async def inventory(first: Strict, second: Strict) -> None:
    service = f"{V1}.InventoryService"
    await twice(first, service, "SetInventory", product_id="a", available=10, bucket_count=3)
    stock = (await twice(first, service, "AdjustInventory", product_id="a", delta=5, reason="found")).inventory
    for strictly in (second, first):
        assert (await strictly(service, "GetInventory", product_id="a")).inventory == stock
        await strictly(service, "GetInventory", product_id="a", options=BYPASS)
        await strictly(service, "BatchGetInventory", product_ids=["a", "nobody"], options=BYPASS)
        assert (await strictly(service, "BatchGetInventory", product_ids=["a"])).inventories[0] == stock
    reserving = {"items": [{"product_id": "a", "quantity": 3}], "user_id": "u"}
    made = (await twice(first, service, "ReserveInventory", **reserving)).reservation
    too_many = {"items": [{"product_id": "a", "quantity": 99}], "user_id": "u", "request_id": new_request()}
    assert await first.refused(service, "ReserveInventory", **too_many) == "OUT_OF_STOCK"
    await twice(first, service, "ExtendReservation", reservation_id=made.reservation_id, hold_duration={"seconds": 5000})
    await first(service, "GetReservation", reservation_id=made.reservation_id)
    await twice(first, service, "CommitReservation", reservation_id=made.reservation_id)
    made = (await first(service, "ReserveInventory", request_id=new_request(), **reserving)).reservation
    await twice(first, service, "ReleaseReservation", reservation_id=made.reservation_id)
    assert len((await first(service, "ListReservations")).reservations) == 2
    await first.watch(service, "WatchInventory", 3, product_ids=["a", "nobody"])


async def user_events(first: Strict) -> None:
    service = f"{V1}.UserEventService"
    events = [{"user_id": "u", "event_type": 6}, {"user_id": "u", "event_type": 6, "event_time": {"seconds": 1}}]
    assert len((await first(service, "WriteUserEvents", events=events)).refused_events) == 1
    await first.watch(service, "StreamUserEvents", 1, events=events)
    await first(service, "PurgeUserEvents", user_id="u")


async def recommendations(first: Strict, second: Strict) -> None:
    service = f"{V1}.RecommendationService"
    for strictly in (first, first, second):
        assert (await strictly(service, "GetRecommendations", user_id="u")).recommendations
    asked = {"user_id": "u", "placement": 3, "context_product_ids": ["a", "nobody"], "explain": True}
    assert (await first(service, "GetRecommendations", **asked)).missing_product_ids == ["nobody"]
    lists = [{"user_id": "u", "recommendations": [{"product_id": "a", "score": 1.0}]}]
    assert (await first(service, "ImportRecommendations", batch_id="b", lists=lists, commit=True)).committed
    assert (await first(service, "DeleteRecommendations", batch_id="b")).deleted_count == 1


async def pages(first: Strict, second: Strict) -> None:
    service = f"{V1}.StorefrontService"
    session = (await first(f"{V1}.SessionService", "CreateSession", user_id="u")).session_id
    await first(f"{V1}.CartService", "AddCartItem", user_id="u", item=item("a"), request_id=new_request())
    visit = {"user_id": "u", "session_id": session}
    for strictly in (first, first, second):
        home = await strictly(service, "GetHomePage", **visit)
        assert len(home.ListFields()) == 3
        assert home.recommendations.products.products
        for options in (None, BYPASS):
            page = await strictly(service, "GetProductPage", product_id="a", options=options, **visit)
            assert len(page.ListFields()) == 5
        assert len((await strictly(service, "GetCategoryPage", **visit)).products.products) == 2
        for method in ("GetCartPage", "GetCheckoutPage"):
            page = await strictly(service, method, **visit)
            assert (page.cart.cart.items[0].product_id, page.products.products[0].product_id) == ("a", "a")
    assert (await first(service, "GetHomePage", session_id="nobody", user_id="u")).session.error.reason == "NOT_FOUND"
    assert await first.refused(service, "GetProductPage", product_id="nobody", **visit) == "NOT_FOUND"


async def the_rest(first: Strict) -> None:
    service = f"{V1}.AdminService"
    for dataset in ("product", "session", "cart", "inventory"):
        await everything_is_forgotten(first, dataset)
    await first(service, "GetStats")
    for dataset in ("product", "session", "cart", "inventory"):
        assert (await first(service, "InspectKey", dataset=dataset, id="none")).tiers
    await first(service, "GetPolicy")
    await first(service, "UpdatePolicy", policy={"dataset": "product", "rollout": 50.0})
    await first(service, "UpdateLogLevel")
    await first("grpc.health.v1.Health", "Check")
    await first.watch("grpc.health.v1.Health", "Watch", 1)
    for ask in ({"list_services": ""}, {"file_containing_symbol": f"{V1}.CartService"}, {"file_by_filename": "none"}):
        await first.watch("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", 1, **ask)
