"""CartService as its callers see it, through two sidecars that share Redis and PostgreSQL."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2
from google.type.money_pb2 import Money
from grpc import StatusCode
from grpc.aio import AioRpcError

from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartChange, CartItem
from tests.support.customers import L2, STORE, Customer, amounts, item, lines, new_request, new_user
from tests.support.shop import refused

STRANGE_IDS = [
    "{07}",
    "a:b:{c}",
    "}{",
    "cart",
    "x y",
    "é",
    "日本",
    "\U0001f600",
    "*",
    "%s",
    "'; --",
    "\\",
    '"',
    "\u200b",
    "a" * 128,
]


async def test_the_cart_of_an_unknown_user_is_empty(customers: tuple[Customer, Customer]) -> None:
    user = new_user()
    for customer in (*customers, *customers):
        reply = await customer.read(user)
        assert reply.cart == Cart(user_id=user, etag="0")
        assert reply.cache.version == 0
    assert reply.cache.source == L2


async def test_a_cart_is_saved_and_read_back(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user = new_user()
    await first.add(user, item("prod456", 2, "29.99 EUR"))
    cart = await first.add(user, item("prod789", 1, "59.99 EUR", size="L"))
    assert lines(cart) == {"prod456": 2, "prod789": 1}
    assert dict(cart.items[1].options) == {"size": "L"}
    assert amounts(cart) == ["119.97 EUR"]
    assert cart.create_time.seconds > 0
    assert (cart.update_time.seconds, cart.update_time.nanos) > (cart.create_time.seconds, cart.create_time.nanos)
    for customer in customers:
        reply = await customer.read(user)
        assert reply.cart == cart
        assert reply.cache.source == L2
        assert not reply.cache.stale
        assert reply.cache.version == int(cart.etag, 16)
    assert (await second.read(user, bypass=True)).cache.source == STORE
    assert (await second.read(user, max_age=Duration())).cache.source == STORE
    assert await second.cart(user, bypass=True) == cart


@pytest.mark.parametrize("user", STRANGE_IDS)
async def test_any_text_may_be_an_id(customers: tuple[Customer, Customer], user: str) -> None:
    first, second = customers
    await first.replace(user, item(user, 1, **{user[:64]: user}))
    cart = await second.cart(user)
    assert cart.user_id == user
    assert (cart.items[0].product_id, dict(cart.items[0].options)) == (user, {user[:64]: user})


async def test_totals_are_per_currency_and_those_of_a_request_do_not_count(customer: Customer) -> None:
    user = new_user()
    cart = Cart(user_id=user, items=[item("a", 3, "0.10 USD"), item("b", 1, "5.00 EUR"), item("c", 2, "0.01 USD")])
    cart.totals.append(Money(currency_code="EUR", units=1))
    reply = await customer.carts.ReplaceCart(pb.ReplaceCartRequest(cart=cart))
    assert amounts(reply.cart) == ["5.00 EUR", "0.32 USD"]


async def test_a_total_too_large_is_refused_and_changes_nothing(customer: Customer) -> None:
    user = new_user()
    before = await customer.add(
        user, CartItem(product_id="a", quantity=1, unit_price=Money(currency_code="EUR", units=2**63 - 1))
    )
    refusal = await refused(customer.add(user, item("b", 1, "1.00 EUR")))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"unit_price"}
    assert await customer.cart(user, bypass=True) == before
    refusal = await refused(customer.replace(user, item("b", 999, f"{2**62}.00 EUR")))
    assert refusal.code == StatusCode.INVALID_ARGUMENT


async def test_lines_are_set_removed_and_cleared(customer: Customer) -> None:
    user = new_user()
    await customer.replace(user, item("a", 1, size="M"), item("a", 2, size="L"), item("b", 3))
    reply = await customer.carts.SetCartItemQuantity(
        pb.SetCartItemQuantityRequest(user_id=user, product_id="a", options={"size": "L"}, quantity=7)
    )
    assert [line.quantity for line in reply.cart.items] == [1, 7, 3]
    reply = await customer.carts.SetCartItemQuantity(pb.SetCartItemQuantityRequest(user_id=user, product_id="b", quantity=0))
    assert [line.quantity for line in reply.cart.items] == [1, 7]
    request = pb.RemoveCartItemRequest(user_id=user, product_id="a", options={"size": "M"})
    for _ in range(2):  # what is not there need not be removed
        reply = await customer.carts.RemoveCartItem(request)
        assert [line.quantity for line in reply.cart.items] == [7]
    reply = await customer.carts.ClearCart(pb.ClearCartRequest(user_id=user))
    assert not reply.cart.items
    assert not reply.cart.totals
    assert await customer.cart(user) == reply.cart
    cleared = await customer.carts.ClearCart(pb.ClearCartRequest(user_id=user))
    assert cleared.cart == reply.cart


async def test_clearing_what_was_never_written_writes_nothing(customer: Customer) -> None:
    user = new_user()
    reply = await customer.carts.ClearCart(pb.ClearCartRequest(user_id=user, request_id=new_request()))
    assert reply.cart == Cart(user_id=user, etag="0")
    assert (await customer.read(user, bypass=True)).cache.version == 0


async def test_the_quantity_of_a_line_that_is_not_there_cannot_be_set(customer: Customer) -> None:
    request = pb.SetCartItemQuantityRequest(user_id=new_user(), product_id="a", quantity=1)
    assert (await refused(customer.carts.SetCartItemQuantity(request))).code == StatusCode.NOT_FOUND


async def test_limits_are_kept(customer: Customer) -> None:
    user = new_user()
    await customer.add(user, item("a", 999))
    refusal = await refused(customer.add(user, item("a", 1)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "LIMIT_REACHED")
    assert refusal.metadata["limit"] == "999"
    assert (await refused(customer.replace(user, item("a", 1000)))).reason == "LIMIT_REACHED"
    assert (await refused(customer.replace(user, *(item(f"p{n}") for n in range(201))))).reason == "LIMIT_REACHED"
    assert lines(await customer.cart(user)) == {"a": 999}
    assert len((await customer.replace(user, *(item(f"p{n}") for n in range(200)))).items) == 200


async def test_changes_are_made_all_or_none_in_their_order(customer: Customer) -> None:
    user = new_user()
    await customer.replace(user, item("a", 1))
    changes = [
        CartChange(add_item=item("b", 2)),
        CartChange(set_item_quantity=CartChange.SetItemQuantity(product_id="b", quantity=5)),
        CartChange(remove_item=CartChange.RemoveItem(product_id="a")),
        CartChange(add_item=item("a", 3, size="L")),
    ]
    request = pb.ApplyCartChangesRequest(user_id=user, changes=changes, request_id=new_request())
    cart = (await customer.carts.ApplyCartChanges(request)).cart
    assert [(line.product_id, line.quantity, dict(line.options)) for line in cart.items] == [
        ("b", 5, {}),
        ("a", 3, {"size": "L"}),
    ]
    changes.append(CartChange(set_item_quantity=CartChange.SetItemQuantity(product_id="none", quantity=1)))
    request = pb.ApplyCartChangesRequest(user_id=user, changes=changes, request_id=new_request())
    assert (await refused(customer.carts.ApplyCartChanges(request))).code == StatusCode.NOT_FOUND
    assert await customer.cart(user, bypass=True) == cart


async def test_a_guests_cart_is_merged_into_the_users(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user, guest = new_user(), new_user()
    await first.replace(user, item("a", 998, "1.00 EUR"), item("b", 1))
    await second.replace(guest, item("a", 5, "2.00 EUR"), item("c", 1))
    await first.cart(guest)
    request = pb.MergeCartsRequest(user_id=user, guest_user_id=guest, request_id=new_request())
    cart = (await first.carts.MergeCarts(request)).cart
    assert lines(cart) == {"a": 999, "b": 1, "c": 1}
    assert cart.items[0].unit_price.units == 2
    for customer in customers:
        assert await customer.cart(user) == cart
        assert not (await customer.cart(guest)).items
    await second.add(guest, item("d"))
    assert (await second.carts.MergeCarts(request)).cart == cart, "a repeat is the first reply, and merges nothing more"
    assert lines(await first.cart(guest)) == {"d": 1}


async def test_a_guest_without_a_cart_changes_nothing(customer: Customer) -> None:
    user = new_user()
    before = await customer.add(user, item("a"))
    for guest in (new_user(), new_user()):
        request = pb.MergeCartsRequest(user_id=user, guest_user_id=guest, request_id=new_request())
        assert (await customer.carts.MergeCarts(request)).cart == before


async def test_a_cart_replaced_with_an_etag_that_lost_comes_back(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user = new_user()
    read = await first.cart(user)
    mine = await first.replace(user, item("a"), etag=read.etag)
    theirs = await second.replace(user, item("b"), etag=mine.etag)
    refusal = await refused(first.replace(user, item("c"), etag=mine.etag))
    assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refusal.metadata["etag"] == theirs.etag
    assert await _cart_in_details(first, user, mine.etag) == theirs
    assert lines(await first.replace(user, item("c"), etag=theirs.etag)) == {"c": 1}


async def test_a_cart_is_cleared_only_as_the_caller_knows_it(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user = new_user()
    read = await first.add(user, item("a"))
    theirs = await second.add(user, item("b"))
    for request_id in ("", new_request()):
        request = pb.ClearCartRequest(user_id=user, etag=read.etag, request_id=request_id)
        refusal = await refused(first.carts.ClearCart(request))
        assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        assert refusal.metadata["etag"] == theirs.etag
    assert lines(await first.cart(user)) == {"a": 1, "b": 1}
    cleared = (await first.carts.ClearCart(pb.ClearCartRequest(user_id=user, etag=theirs.etag))).cart
    assert (lines(cleared), lines(await second.cart(user))) == ({}, {})


async def _cart_in_details(customer: Customer, user: str, etag: str) -> Cart | None:
    try:
        await customer.replace(user, item("z"), etag=etag)
    except AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        assert sum(len(key) + len(value) + 32 for key, value in trailers.items()) * 4 / 3 < 8192
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])  # type: ignore[arg-type]
        cart = Cart()
        return cart if any(detail.Unpack(cart) for detail in status.details) else None
    raise AssertionError("expected ABORTED")


async def test_a_large_cart_is_left_out_of_the_details(customer: Customer) -> None:
    user = new_user()
    await customer.replace(user, *(item(f"product-{number}", 1, note="x" * 50) for number in range(100)))
    assert await _cart_in_details(customer, user, "f" * 10) is None


async def test_a_repeated_request_gets_the_first_reply(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user, same = new_user(), new_request()
    once = await first.add(user, item("a", 2), same)
    await first.add(user, item("b"))
    assert await second.add(user, item("a", 2), same) == once
    assert lines(await second.cart(user)) == {"a": 2, "b": 1}
    refusal = await refused(second.add(user, item("a", 3), same))
    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetCart", pb.GetCartRequest(), "user_id"),
        ("GetCart", pb.GetCartRequest(user_id="a\x00"), "user_id"),
        ("GetCart", pb.GetCartRequest(user_id="a" * 129), "user_id"),
        ("AddCartItem", pb.AddCartItemRequest(user_id="u", item=item("a")), "request_id"),
        ("AddCartItem", pb.AddCartItemRequest(user_id="u", request_id=new_request()), "item"),
        ("AddCartItem", pb.AddCartItemRequest(user_id="u", item=item("a", 0), request_id=new_request()), "item.quantity"),
        ("AddCartItem", pb.AddCartItemRequest(user_id="u", item=item("a", -1), request_id=new_request()), "item.quantity"),
        ("AddCartItem", pb.AddCartItemRequest(user_id="u", item=item(""), request_id=new_request()), "item.product_id"),
        (
            "AddCartItem",
            pb.AddCartItemRequest(user_id="u", item=item("a", 1, "1.00 euro"), request_id=new_request()),
            "item.unit_price",
        ),
        (
            "AddCartItem",
            pb.AddCartItemRequest(user_id="u", item=item("a", 1, **{f"k{n}": "" for n in range(9)}), request_id=new_request()),
            "item.options",
        ),
        ("ReplaceCart", pb.ReplaceCartRequest(), "cart"),
        ("ReplaceCart", pb.ReplaceCartRequest(cart=Cart(user_id="u", items=[item("a")] * 2)), "cart.items[1]"),
        ("MergeCarts", pb.MergeCartsRequest(user_id="u", guest_user_id="u", request_id=new_request()), "guest_user_id"),
        ("MergeCarts", pb.MergeCartsRequest(user_id="u", guest_user_id="g"), "request_id"),
        ("ApplyCartChanges", pb.ApplyCartChangesRequest(user_id="u", request_id=new_request()), "changes"),
        (
            "ApplyCartChanges",
            pb.ApplyCartChangesRequest(user_id="u", changes=[CartChange()], request_id=new_request()),
            "changes[0].change",
        ),
        ("SetCartItemQuantity", pb.SetCartItemQuantityRequest(user_id="u", product_id="a", quantity=-1), "quantity"),
        ("ListAbandonedCarts", pb.ListAbandonedCartsRequest(), "idle_for"),
        ("ListAbandonedCarts", pb.ListAbandonedCartsRequest(idle_for=Duration(seconds=-1)), "idle_for"),
        ("ListAbandonedCarts", pb.ListAbandonedCartsRequest(idle_for=Duration(seconds=9), page_token="x"), "page_token"),
        ("ListAbandonedCarts", pb.ListAbandonedCartsRequest(idle_for=Duration(seconds=9), page_size=-1), "page_size"),
    ],
)
async def test_what_breaks_a_rule_is_refused(customer: Customer, method: str, request_: Any, field: str) -> None:
    refusal = await refused(getattr(customer.carts, method)(request_))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert field in refusal.violations
