"""A client of carts and sessions, as the tests use it."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from google.type.money_pb2 import Money

from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1 import admin_service_pb2, admin_service_pb2_grpc, cache_pb2
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import session_service_pb2 as sessions
from cache_sidecar.v1.cart_pb2 import Cart, CartItem
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.launch import Sidecar

L2, STORE = cache_pb2.SOURCE_L2, cache_pb2.SOURCE_STORE


def new_user() -> str:
    """Returns a new user_id."""
    return f"user-{uuid4().hex[:12]}"


def new_request() -> str:
    """Returns a new request_id."""
    return str(uuid4())


def item(product_id: str, quantity: int = 1, price: str = "1.00 EUR", **options: str) -> CartItem:
    """Returns a line of a cart."""
    return CartItem(product_id=product_id, quantity=quantity, unit_price=money(price), options=options)


def money(amount: str) -> Money:
    """Returns an amount given as `29.99 EUR`."""
    number, currency_code = amount.split()
    units, _, fraction = number.partition(".")
    return Money(currency_code=currency_code, units=int(units), nanos=int(fraction.ljust(9, "0")))


def amounts(cart: Cart) -> list[str]:
    """Returns the totals of a cart as `29.99 EUR`."""
    return [f"{total.units}.{total.nanos // 10_000_000:02} {total.currency_code}" for total in cart.totals]


def lines(cart: Cart) -> dict[str, int]:
    """Returns the quantities of a cart by product."""
    return {line.product_id: line.quantity for line in cart.items}


def cart_key(namespace: str, user_id: str) -> str:
    """Returns the key of a cart in Redis."""
    return KeyNames(namespace).key("cart", user_id)


class Customer:
    """The carts and sessions of a sidecar, as a shop calls them."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.carts: Any = CartServiceStub(sidecar.channel)
        self.sessions: Any = SessionServiceStub(sidecar.channel)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(sidecar.channel)

    async def read(self, user_id: str, **options: Any) -> carts.GetCartResponse:
        """Reads a cart."""
        asked = cache_pb2.ReadOptions(**options) if options else None
        reply: carts.GetCartResponse = await self.carts.GetCart(carts.GetCartRequest(user_id=user_id, options=asked))
        return reply

    async def cart(self, user_id: str, **options: Any) -> Cart:
        """Reads a cart without its cache metadata."""
        return (await self.read(user_id, **options)).cart

    async def add(self, user_id: str, line: CartItem, request_id: str = "") -> Cart:
        """Adds to a cart and returns it."""
        request = carts.AddCartItemRequest(user_id=user_id, item=line, request_id=request_id or new_request())
        reply: carts.AddCartItemResponse = await self.carts.AddCartItem(request)
        return reply.cart

    async def replace(self, user_id: str, *items: CartItem, etag: str = "", request_id: str = "") -> Cart:
        """Replaces a cart and returns it."""
        cart = Cart(user_id=user_id, items=items, etag=etag)
        reply: carts.ReplaceCartResponse = await self.carts.ReplaceCart(
            carts.ReplaceCartRequest(cart=cart, request_id=request_id)
        )
        return reply.cart

    async def create(self, user_id: str = "", request_id: str = "", **attributes: str) -> str:
        """Creates a session and returns its session_id."""
        request = sessions.CreateSessionRequest(user_id=user_id, attributes=attributes, request_id=request_id)
        reply: sessions.CreateSessionResponse = await self.sessions.CreateSession(request)
        return reply.session_id

    async def session(self, session_id: str) -> sessions.GetSessionResponse:
        """Reads a session."""
        reply: sessions.GetSessionResponse = await self.sessions.GetSession(sessions.GetSessionRequest(session_id=session_id))
        return reply

    async def touch(self, session_id: str) -> float:
        """Touches a session and returns when it expires."""
        reply: sessions.TouchSessionResponse = await self.sessions.TouchSession(
            sessions.TouchSessionRequest(session_id=session_id)
        )
        return reply.expire_time.seconds + reply.expire_time.nanos / 1e9

    async def log_out_everywhere(self, user_id: str, request_id: str = "") -> int:
        """Ends all sessions of a user and returns their number."""
        request = sessions.DeleteUserSessionsRequest(user_id=user_id, request_id=request_id)
        reply: sessions.DeleteUserSessionsResponse = await self.sessions.DeleteUserSessions(request)
        return reply.deleted

    async def merge(self, user_id: str, guest_user_id: str) -> Cart:
        """Merges a guest's cart into a user's, and returns the user's."""
        request = carts.MergeCartsRequest(user_id=user_id, guest_user_id=guest_user_id, request_id=new_request())
        reply: carts.MergeCartsResponse = await self.carts.MergeCarts(request)
        return reply.cart

    async def forget(self, dataset: str) -> None:
        """Removes a dataset from Redis."""
        await self.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset=dataset, all=True))

    def watch(self, user_id: str) -> AsyncIterator[carts.WatchCartResponse]:
        """Watches a cart."""
        stream: AsyncIterator[carts.WatchCartResponse] = self.carts.WatchCart(carts.WatchCartRequest(user_id=user_id))
        return stream
