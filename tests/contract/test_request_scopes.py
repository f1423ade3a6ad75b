"""request_id: one user's cannot collide with another's, and a repeat is known however it is written."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from cache_sidecar.services.fingerprint import IGNORED, UUIDS
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import inventory_service_pb2 as stock
from cache_sidecar.v1 import product_service_pb2 as products
from cache_sidecar.v1 import session_service_pb2 as sessions
from cache_sidecar.v1.cart_pb2 import Cart, CartChange
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from tests.support.customers import Customer, item, new_request, new_user
from tests.support.shop import Shop, new_id, product, refused
from tests.support.stockroom import Stockroom, reserving


class Sidecar:
    """A sidecar, and what tests call it for."""

    def __init__(self, shop: Shop) -> None:
        self.customer = Customer(shop.sidecar)
        self.stock = Stockroom(shop.sidecar.channel)
        self.products: Any = shop.sidecar.stub(ProductServiceStub)

    async def call(self, request: Message) -> Any:
        """Calls the method of a request."""
        method = type(request).__name__.removesuffix("Request")
        for stub in (self.customer.carts, self.customer.sessions, self.stock.calls, self.products):
            if hasattr(stub, method):
                return await getattr(stub, method)(request)
        raise LookupError(method)


@pytest.fixture
def first(shops: tuple[Shop, Shop]) -> Sidecar:
    return Sidecar(shops[0])


@pytest.fixture
def second(shops: tuple[Shop, Shop]) -> Sidecar:
    return Sidecar(shops[1])


# Each makes a request of somebody, given a user_id and a request_id; what it is about is there already.
Make = Callable[[Sidecar, str, str], Any]


async def _create_session(_: Sidecar, user: str, id: str) -> Message:
    return sessions.CreateSessionRequest(user_id=user, attributes={"of": user}, request_id=id)


async def _create_anonymous_session(_: Sidecar, user: str, id: str) -> Message:
    return sessions.CreateSessionRequest(client=SessionClient(user_agent=user), request_id=id)


async def _update_session(sidecar: Sidecar, user: str, id: str) -> Message:
    session_id = await sidecar.customer.create(user)
    return sessions.UpdateSessionRequest(session=Session(session_id=session_id, attributes={"of": user}), request_id=id)


async def _rotate_session(sidecar: Sidecar, user: str, id: str) -> Message:
    return sessions.RotateSessionRequest(session_id=await sidecar.customer.create(user), request_id=id)


async def _delete_session(sidecar: Sidecar, user: str, id: str) -> Message:
    return sessions.DeleteSessionRequest(session_id=await sidecar.customer.create(user), request_id=id)


async def _delete_user_sessions(sidecar: Sidecar, user: str, id: str) -> Message:
    await sidecar.customer.create(user)
    return sessions.DeleteUserSessionsRequest(user_id=user, request_id=id)


async def _replace_cart(_: Sidecar, user: str, id: str) -> Message:
    return carts.ReplaceCartRequest(cart=Cart(user_id=user, items=[item("a")]), request_id=id)


async def _add_cart_item(_: Sidecar, user: str, id: str) -> Message:
    return carts.AddCartItemRequest(user_id=user, item=item("a"), request_id=id)


async def _set_cart_item_quantity(sidecar: Sidecar, user: str, id: str) -> Message:
    await sidecar.customer.add(user, item("a"))
    return carts.SetCartItemQuantityRequest(user_id=user, product_id="a", quantity=3, request_id=id)


async def _remove_cart_item(sidecar: Sidecar, user: str, id: str) -> Message:
    await sidecar.customer.add(user, item("a"))
    return carts.RemoveCartItemRequest(user_id=user, product_id="a", request_id=id)


async def _clear_cart(sidecar: Sidecar, user: str, id: str) -> Message:
    await sidecar.customer.add(user, item("a"))
    return carts.ClearCartRequest(user_id=user, request_id=id)


async def _apply_cart_changes(_: Sidecar, user: str, id: str) -> Message:
    return carts.ApplyCartChangesRequest(user_id=user, changes=[CartChange(add_item=item("a"))], request_id=id)


async def _merge_carts(sidecar: Sidecar, user: str, id: str) -> Message:
    await sidecar.customer.add(f"guest of {user}", item("a"))
    return carts.MergeCartsRequest(user_id=user, guest_user_id=f"guest of {user}", request_id=id)


async def _reserve_inventory(sidecar: Sidecar, user: str, id: str) -> Message:
    product_id = new_id()
    await sidecar.stock.set(product_id, 5)
    return reserving({product_id: 1}, user_id=user, request_id=id)


async def _reserved(sidecar: Sidecar, user: str) -> str:
    return str((await sidecar.call(await _reserve_inventory(sidecar, user, new_request()))).reservation.reservation_id)


async def _extend_reservation(sidecar: Sidecar, user: str, id: str) -> Message:
    return stock.ExtendReservationRequest(reservation_id=await _reserved(sidecar, user), request_id=id)


async def _commit_reservation(sidecar: Sidecar, user: str, id: str) -> Message:
    return stock.CommitReservationRequest(reservation_id=await _reserved(sidecar, user), request_id=id)


async def _release_reservation(sidecar: Sidecar, user: str, id: str) -> Message:
    return stock.ReleaseReservationRequest(reservation_id=await _reserved(sidecar, user), request_id=id)


OF_A_USER = (
    _create_session,
    _create_anonymous_session,
    _update_session,
    _rotate_session,
    _delete_session,
    _delete_user_sessions,
    _replace_cart,
    _add_cart_item,
    _set_cart_item_quantity,
    _remove_cart_item,
    _clear_cart,
    _apply_cart_changes,
    _merge_carts,
    _reserve_inventory,
    _extend_reservation,
    _commit_reservation,
    _release_reservation,
)


async def _create_product(_: Sidecar, _user: str, id: str) -> Message:
    return products.CreateProductRequest(product=product(new_id()), request_id=id)


async def _update_product(sidecar: Sidecar, user: str, id: str) -> Message:
    created = await sidecar.call(await _create_product(sidecar, user, new_request()))
    return products.UpdateProductRequest(product=Product(product_id=created.product.product_id, title="new"), request_id=id)


async def _delete_product(sidecar: Sidecar, user: str, id: str) -> Message:
    created = await sidecar.call(await _create_product(sidecar, user, new_request()))
    return products.DeleteProductRequest(product_id=created.product.product_id, request_id=id)


async def _set_inventory(_: Sidecar, _user: str, id: str) -> Message:
    return stock.SetInventoryRequest(product_id=new_id(), available=5, request_id=id)


async def _adjust_inventory(sidecar: Sidecar, _user: str, id: str) -> Message:
    product_id = new_id()
    await sidecar.stock.set(product_id, 5)
    return stock.AdjustInventoryRequest(product_id=product_id, delta=1, reason="counted", request_id=id)


OF_THE_SHOP = (_create_product, _update_product, _delete_product, _set_inventory, _adjust_inventory)


def test_every_method_with_a_request_id_is_here() -> None:
    named = {"".join(part.capitalize() for part in make.__name__.split("_")) for make in (*OF_A_USER, *OF_THE_SHOP)}
    services = [module.DESCRIPTOR.services_by_name for module in (carts, sessions, stock, products)]
    methods = [method for found in services for service in found.values() for method in service.methods]
    with_id = {method.name for method in methods if "request_id" in method.input_type.fields_by_name}
    assert named == with_id | {"CreateAnonymousSession"}


@pytest.mark.parametrize("make", OF_A_USER)
async def test_somebody_elses_request_id_does_not_matter(first: Sidecar, second: Sidecar, make: Make) -> None:
    same, users = new_request(), (new_user(), new_user())
    requests = [await make(first, user, same) for user in users]
    replies = [await first.call(request) for request in requests]
    for request, reply in zip(requests, replies, strict=True):
        again = await second.call(request)
        if "session_id" in reply.DESCRIPTOR.fields_by_name:
            assert again.session_id not in {"", *(reply.session_id for reply in replies)}
            assert again.session.attributes == reply.session.attributes
            assert again.session.client == reply.session.client
        else:
            assert again == reply


def written_otherwise(request: Any) -> Any:
    """Returns a request for the same: its UUIDs in upper case, and what the server ignores as a reply would have it."""
    other = type(request)()
    other.CopyFrom(request)
    for name in {"request_id", *UUIDS} & set(other.DESCRIPTOR.fields_by_name):
        setattr(other, name, getattr(other, name).upper())
    for path in IGNORED.get(type(request).__name__, ()):
        resource, name = path.split(".")
        value = getattr(getattr(other, resource), name)
        if isinstance(value, Timestamp):
            value.GetCurrentTime()
        elif isinstance(value, str):
            setattr(getattr(other, resource), name, "7")
        else:
            value.add(currency_code="EUR", units=7)
    return other


@pytest.mark.parametrize("make", [*OF_A_USER, *OF_THE_SHOP])
async def test_a_repeat_is_one_however_it_is_written(first: Sidecar, second: Sidecar, make: Make) -> None:
    request = await make(first, new_user(), new_request())
    reply, again = await first.call(written_otherwise(request)), await second.call(request)
    if "session_id" in reply.DESCRIPTOR.fields_by_name:
        assert (await refused(first.customer.session(reply.session_id))).code is StatusCode.NOT_FOUND, "it was a repeat"
        assert (await second.customer.session(again.session_id)).session.attributes == reply.session.attributes
    else:
        assert again == reply


async def test_another_request_of_the_same_user_is_refused(first: Sidecar, second: Sidecar) -> None:
    user, same = new_user(), new_request()
    await first.customer.add(user, item("a"), same)
    others = (
        carts.AddCartItemRequest(user_id=user, item=item("b"), request_id=same),
        carts.AddCartItemRequest(user_id=user, item=item("b"), request_id=same.upper()),
        carts.ClearCartRequest(user_id=user, request_id=same),
        sessions.CreateSessionRequest(user_id=user, request_id=same),
    )
    for other in others:
        refusal = await refused(second.call(other))
        assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_reservation_is_not_refused_for_somebody_elses_grant(first: Sidecar, second: Sidecar) -> None:
    """The gate lets a request through that was granted before; whose it was, PostgreSQL decides."""
    product_id, same = new_id(), new_request()
    await first.stock.set(product_id, 1)
    mine = reserving({product_id: 1}, user_id=new_user(), request_id=same)
    theirs = reserving({product_id: 1}, user_id=new_user(), request_id=same)
    granted = await first.call(mine)
    for sidecar in (first, second):
        assert (await refused(sidecar.call(theirs))).reason == "OUT_OF_STOCK"
        assert await sidecar.call(mine) == granted
