"""The arm with sidecars: the home page and that of a product are one call, the others calls that are made at once.

StorefrontService also has pages of a category and of a cart, but with the stock of their products, which no other arm shows.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import code_pb2
from google.type.money_pb2 import Money

from cache_sidecar.importer.online_retail import CURRENCY
from cache_sidecar.replay.arm import Card, Customer, EndState, Page, PageFailed
from cache_sidecar.replay.tables import PAGE_SIZE, Pool
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import inventory_service_pb2 as stocks
from cache_sidecar.v1 import product_service_pb2 as products
from cache_sidecar.v1 import session_service_pb2 as sessions
from cache_sidecar.v1 import storefront_service_pb2 as pages
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from cache_sidecar.v1.cart_pb2 import CartItem
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from cache_sidecar.v1.inventory_pb2 import ReservationItem
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceStub
from cache_sidecar.v1.storefront_service_pb2_grpc import StorefrontServiceStub

# Seconds: what a reply that is not marked stale may lack, see cache.proto; of a call; until events have arrived.
BOUND, _TIMEOUT, _ARRIVAL = 0.6, 2.0, 60.0
_LOOK_EVERY = 0.1
_PENCE = 10**7
_STOCK = "SELECT product_id, sum(available)::bigint, sum(reserved)::bigint FROM cache_sidecar.inventory GROUP BY product_id"
_CARTS = "SELECT user_id FROM cache_sidecar.carts WHERE items <> '[]'"
_ORDERS = "SELECT count(*) FROM cache_sidecar.reservations WHERE state = 'committed'"
_EVENTS = "SELECT count(*) FROM cache_sidecar.user_events WHERE position > %s"


class _Stubs(NamedTuple):
    """Of one sidecar."""

    products: Any
    carts: Any
    sessions: Any
    stocks: Any
    pages: Any
    admin: Any


class SidecarArm:
    """A shop with one pod or several, each with its sidecar; a customer stays with one of them."""

    name = "sidecar"
    bound = BOUND

    def __init__(self, targets: Sequence[str], dsn: str, *, events: int) -> None:
        """`targets` are the sidecars as gRPC names them. `dsn` leads to PostgreSQL itself, for the end state.

        `events` is the position of the last event that was written before the replay.
        """
        self._channels = [grpc.aio.insecure_channel(target) for target in targets]
        self._pods = [_stubs(channel) for channel in self._channels]
        self._pool = Pool(dsn, 1)
        self._events = events

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            await channel.close()
        await self._pool.close()

    async def log_in(self, user_id: str, *, is_known: bool, request_id: UUID) -> Customer:
        """Begins a session."""
        request = sessions.CreateSessionRequest(user_id=user_id, request_id=str(request_id))
        (reply,) = await _answers(self._pod(user_id).sessions.CreateSession(request, timeout=_TIMEOUT))
        return Customer(user_id, reply.session_id, is_known)

    async def home_page(self, customer: Customer) -> Page:
        """Session, cart, and what is recommended."""
        request = pages.GetHomePageRequest(
            user_id=customer.user_id, session_id=customer.session_id, personalised=customer.is_known
        )
        (page,) = await _answers(self._pod(customer.user_id).pages.GetHomePage(request, timeout=_TIMEOUT))
        return Page(page.cart.piece_count, _cards_of(page), is_stale=_whole(page))

    async def category_page(self, customer: Customer, category: str) -> Page:
        """Session, cart, and the first products of a category."""
        pod = self._pod(customer.user_id)
        request = products.ListProductsRequest(category=category, page_size=PAGE_SIZE)
        session, cart, found = await _answers(*_every_page(pod, customer), pod.products.ListProducts(request, timeout=_TIMEOUT))
        return Page(_in_cart(cart), [_card(one) for one in found.products], is_stale=_is_stale(session, cart, found))

    async def product_page(self, customer: Customer, product_id: str) -> Page:
        """Session, cart, the product with its stock, and what is recommended with it: to everybody the same, as in all arms."""
        request = pages.GetProductPageRequest(
            product_id=product_id, user_id=customer.user_id, session_id=customer.session_id, personalised=False
        )
        (page,) = await _answers(self._pod(customer.user_id).pages.GetProductPage(request, timeout=_TIMEOUT))
        is_stale = _whole(page)
        pence, stock = _pence(page.product.product.price), page.inventory.inventory.available
        return Page(page.cart.piece_count, _cards_of(page), pence, stock, is_stale)

    async def cart_page(self, customer: Customer) -> Page:
        """Session, and the cart with its products."""
        pod = self._pod(customer.user_id)
        session, cart = await _answers(*_every_page(pod, customer))
        cards: list[Card] = []
        are_stale = False
        if cart.cart.items:
            request = products.BatchGetProductsRequest(product_ids=[item.product_id for item in cart.cart.items])
            (found,) = await _answers(pod.products.BatchGetProducts(request, timeout=_TIMEOUT))
            cards, are_stale = [_card(one) for one in found.products], _is_stale(found)
        return Page(_in_cart(cart), cards, is_stale=are_stale or _is_stale(session, cart))

    async def add_to_cart(self, customer: Customer, product_id: str, quantity: int, pence: int, request_id: UUID) -> None:
        """Adds pieces of a product to the cart."""
        item = CartItem(product_id=product_id, quantity=quantity, unit_price=_money(pence))
        request = carts.AddCartItemRequest(user_id=customer.user_id, item=item, request_id=str(request_id))
        await _answers(self._pod(customer.user_id).carts.AddCartItem(request, timeout=_TIMEOUT))

    async def reserve(self, customer: Customer, lines: Sequence[tuple[str, int]], request_id: UUID) -> str:
        """Reserves pieces of several products."""
        items = [ReservationItem(product_id=product_id, quantity=quantity) for product_id, quantity in lines]
        request = stocks.ReserveInventoryRequest(items=items, user_id=customer.user_id, request_id=str(request_id))
        (reply,) = await _answers(self._pod(customer.user_id).stocks.ReserveInventory(request, timeout=_TIMEOUT))
        return str(reply.reservation.reservation_id)

    async def check_out(self, customer: Customer, reservation_id: str, request_id: UUID) -> None:
        """Sells what is reserved, then empties the cart: both may be repeated."""
        pod = self._pod(customer.user_id)
        commit = stocks.CommitReservationRequest(reservation_id=reservation_id, request_id=str(request_id))
        await _answers(pod.stocks.CommitReservation(commit, timeout=_TIMEOUT))
        await _answers(pod.carts.ClearCart(carts.ClearCartRequest(user_id=customer.user_id), timeout=_TIMEOUT))

    async def set_price(self, product_id: str, pence: int, request_id: UUID) -> None:
        """Changes a price."""
        request = products.UpdateProductRequest(
            product=Product(product_id=product_id, price=_money(pence)),
            update_mask=FieldMask(paths=["price"]),
            request_id=str(request_id),
        )
        await _answers(self._pods[0].products.UpdateProduct(request, timeout=_TIMEOUT))

    async def add_stock(self, product_id: str, pieces: int, request_id: UUID) -> None:
        """Adds pieces."""
        request = stocks.AdjustInventoryRequest(
            product_id=product_id, delta=pieces, reason="delivered", request_id=str(request_id)
        )
        await _answers(self._pods[0].stocks.AdjustInventory(request, timeout=_TIMEOUT))

    async def tiers(self) -> Counter[tuple[str, str]]:
        """Returns the hits of all sidecars; of one that does not answer, none."""
        counts: Counter[tuple[str, str]] = Counter()
        for pod in self._pods:
            try:
                (reply,) = await _answers(pod.admin.GetStats(admin.GetStatsRequest(), timeout=_TIMEOUT))
            except PageFailed:
                continue
            for row in reply.tiers:
                counts[row.dataset, row.tier] += row.hits
        return counts

    async def end_state(self, *, orders: int) -> EndState:
        """Returns what PostgreSQL holds, once the relay has moved the events of so many orders, or a minute has passed."""
        deadline = time.monotonic() + _ARRIVAL
        while True:
            (((events,),),) = await self._pool.rows((_EVENTS, (self._events,)))
            if events >= orders or time.monotonic() >= deadline:
                break
            await asyncio.sleep(_LOOK_EVERY)
        stock, full, ((committed,),) = await self._pool.rows((_STOCK, ()), (_CARTS, ()), (_ORDERS, ()))
        by_id = {id: (available, reserved) for id, available, reserved in stock}
        return EndState(by_id, {user_id for (user_id,) in full}, committed, events)

    def _pod(self, user_id: str) -> _Stubs:
        return self._pods[crc32(user_id.encode()) % len(self._pods)]


def _stubs(channel: grpc.aio.Channel) -> _Stubs:
    return _Stubs(
        ProductServiceStub(channel),
        CartServiceStub(channel),
        SessionServiceStub(channel),
        InventoryServiceStub(channel),
        StorefrontServiceStub(channel),
        AdminServiceStub(channel),
    )


def _every_page(pod: _Stubs, customer: Customer) -> tuple[Any, Any]:
    """Begins the calls that every page makes."""
    return (
        pod.sessions.TouchSession(sessions.TouchSessionRequest(session_id=customer.session_id), timeout=_TIMEOUT),
        pod.carts.GetCart(carts.GetCartRequest(user_id=customer.user_id), timeout=_TIMEOUT),
    )


async def _answers(*calls: Any) -> list[Any]:
    """Waits for calls that are under way. Raises PageFailed; the others are then cancelled."""
    try:
        return [await call for call in calls]
    except grpc.aio.AioRpcError as error:
        raise PageFailed(error.code().name) from error
    finally:
        for call in calls:
            call.cancel()


def _whole(page: Any) -> bool:
    """Returns whether any part of a page may be stale. Raises PageFailed if one is missing, as in the other arms."""
    parts = [part for _, part in page.ListFields()]
    parts += [page.recommendations.products] if page.recommendations.recommendations else []
    for part in parts:
        if part.HasField("error"):
            raise PageFailed(code_pb2.Code.Name(part.error.code))
    return _is_stale(*parts)


def _cards_of(page: Any) -> list[Card]:
    return [_card(one) for one in page.recommendations.products.products]


def _card(product: Any) -> Card:
    return Card(product.product_id, product.title, _pence(product.price))


def _is_stale(*replies: Any) -> bool:
    return any(reply.cache.stale for reply in replies)


def _in_cart(reply: Any) -> int:
    return sum(item.quantity for item in reply.cart.items)


def _money(pence: int) -> Money:
    return Money(currency_code=CURRENCY, units=pence // 100, nanos=pence % 100 * _PENCE)


def _pence(price: Any) -> int:
    return int(price.units) * 100 + int(price.nanos) // _PENCE
